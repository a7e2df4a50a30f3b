#!/bin/sh
# Refreshes a LadyLinux installation (RW-4.1, RW-4.2): passes its arguments to the installed ladylinux-refresh.
#
#   refresh_vm.sh [BRANCH] [--dry-run] [--always-rebuild-venv]    the same as: ladylinux-refresh run …
#   refresh_vm.sh COMMAND …                                       the same as: ladylinux-refresh COMMAND …
#
# It starts the program from a path that only root can write. If none is installed and this file is in a development
# checkout that only the caller and root can write, it builds the program there. It asks no question and reads no input.
# It is one function, called on the last line, because the refresh that it starts may replace this file while a shell
# still reads it.

set -euf

# The paths of an installed program, and the user that must own it and every directory on the way.
PLACES='/usr/local/bin /usr/bin /usr/lib/ladylinux-refresh'
ROOT=0

UNIT=ladylinux-api.service
PROGRAM=ladylinux-refresh

main() {
    caller_path=${PATH:-}
    # The tools of this script are those of the system, whatever the PATH of the caller.
    PATH=/usr/sbin:/usr/bin:/sbin:/bin
    unset IFS CDPATH

    refuse_no_service "$@"
    program=$(find_installed) || exit $?
    [ -n "$program" ] || program=$(build_in_checkout) || exit $?
    hand_over "$@"
}

# Inserts `run` if the caller left it out, and executes the program.
hand_over() {
    case ${1:-} in
    --root)
        [ $# -ge 2 ] || give_up 2 '--root needs a directory'
        root=--root=$2
        shift 2
        ;;
    --root=*)
        root=$1
        shift
        ;;
    *) root= ;;
    esac
    case ${1:-} in
    run | wait | cancel | plan | lock | status | verify | doctor | history | rollback | unfence | init | service | drift | env | environments | stash | bundle | config | completions | help) ;;
    -h | --help | -V | --version) ;;
    *) set -- run "$@" ;;
    esac
    PATH=$caller_path
    exec "$program" ${root:+"$root"} "$@"
}

# Older scripts could leave the service alone. Files must not change under a service, so this is refused if there is
# one.
refuse_no_service() {
    wanted=no
    root=
    previous=
    for argument in "$@"; do
        case $argument in
        --no-service) wanted=yes ;;
        --root=*) root=${argument#--root=} ;;
        *) [ "$previous" != --root ] || root=$argument ;;
        esac
        previous=$argument
    done
    [ "$wanted" = yes ] || return 0
    root=${root%/}
    if [ -e "$root/var/lib/ladylinux-refresh/supervisor" ] || { [ -z "$root" ] && unit_is_there; }; then
        give_up 2 '--no-service: a service is installed here, and its files must not change while it may run' \
            'leave the option out: a refresh stops the service, and starts and proves it afterwards'
    fi
}

unit_is_there() {
    for directory in /etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system \
        /usr/lib/systemd/system /lib/systemd/system; do
        [ ! -e "$directory/$UNIT" ] || return 0
    done
    command -v systemctl >/dev/null && systemctl is-active --quiet "$UNIT"
}

# Prints the path of the installed program, or nothing if there is none; fails for one that is not safe.
find_installed() {
    for place in $PLACES; do
        [ -x "$place/$PROGRAM" ] || continue
        real=$(readlink -f -- "$place/$PROGRAM")
        for path in "$place" "$real"; do
            why=$(distrust "$(readlink -f -- "$path")" "$ROOT") || continue
            give_up 3 "$place/$PROGRAM is not started: $why" \
                'install it again, owned by root and writable by root alone'
        done
        printf '%s\n' "$real"
        return 0
    done
}

# Builds the program in the checkout of this file, and prints its path.
build_in_checkout() {
    caller=$(id -u)
    script=$(readlink -f -- "$0")
    checkout=${script%/scripts/*}
    if [ "$checkout" = "$script" ] || ! grep -qs "^name = \"$PROGRAM\"\$" "$checkout/Cargo.toml"; then
        give_up 3 "$PROGRAM is not installed in any of: $PLACES" 'install it, then try again'
    fi
    if why=$(distrust "$checkout" "$caller"); then
        give_up 3 "the checkout is not built: $why"
    fi
    stranger=$(find "$checkout" \( ! -user "$caller" ! -user "$ROOT" -o ! -type l \( -perm -020 -o -perm -002 \) \) \
        -print 2>&1 | head -n 1)
    if [ -n "$stranger" ]; then
        give_up 3 "the checkout is not built: others than you can write $stranger" "chmod -R go-w '$checkout'"
    fi
    cargo=$(PATH=$caller_path command -v cargo) || cargo=${HOME:-/nonexistent}/.cargo/bin/cargo
    [ -x "$cargo" ] || give_up 3 "$PROGRAM is not installed, and cargo is not there to build it" \
        'install Rust, or the program'
    if why=$(distrust "$(readlink -f -- "$cargo")" "$caller"); then
        give_up 3 "cargo is not started: $why"
    fi
    (
        cd "$checkout"
        PATH=$caller_path
        umask 022
        unset CARGO_BUILD_TARGET
        "$cargo" build --quiet --release --locked --bin "$PROGRAM" --target-dir "$checkout/target"
    ) </dev/null >&2 || give_up 3 'the program cannot be built'
    printf '%s\n' "$checkout/target/release/$PROGRAM"
}

# Succeeds, and prints the reason, if a user other than root and user $2 can change the file at the real path $1.
distrust() {
    at=$1
    while :; do
        # POSIX has `ls -n` print mode and owner; in a sticky directory no user replaces files of another.
        # shellcheck disable=SC2046 # split on purpose; file names are not used
        set -- $(ls -ldn -- "$at") '' "$2"
        mode=${1:-} owner=${3:-}
        shift $(($# - 2))
        [ "$owner" = 0 ] || [ "$owner" = "$2" ] || { echo "$at belongs to user ${owner:-unknown}"; return 0; }
        case $mode in
        d????????[tT]*) ;;
        ?????w* | ????????w*) echo "others can write $at"; return 0 ;;
        esac
        [ "$at" != / ] || return 1
        at=${at%/*}
        at=${at:-/}
    done
}

# Prints the error ($2) and the repair ($3), and ends with code $1.
give_up() {
    printf 'refresh_vm.sh: %s\n' "$2" >&2
    [ -z "${3:-}" ] || printf 'hint: %s\n' "$3" >&2
    exit "$1"
}

main "$@"; exit

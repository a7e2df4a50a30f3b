#!/bin/sh
# Builds the base of all machines of the lab, once, and prints its place: the base root file system (first line) and a
# package index of wheels (second line).
#
#   sudo ./lab/base.sh
#
# Both are kept in ${LADYLINUX_REFRESH_LAB_CACHE:-/var/cache/ladylinux-refresh-lab}, below a name with a digest of their
# inputs: another list of packages, release of the distribution or list of the demo's requirements makes new ones. They
# are built under another name and moved into place, and one builder waits for the other.

set -eu

here=$(cd "$(dirname -- "$0")" && pwd)
project=$(dirname -- "$here")
cache=${LADYLINUX_REFRESH_LAB_CACHE:-/var/cache/ladylinux-refresh-lab}

# The packages of a LadyLinux host, and those that the git server and the faults need.
packages=systemd,systemd-sysv,dbus,polkitd,git,python3,python3-venv,ca-certificates,iproute2,curl,procps,sudo
packages=$packages,openssh-server,openssh-client,openssl,strace

# Small packages for tests that need any environment, some in two versions, besides those of the demo.
small='six==1.16.0 six==1.17.0 gunicorn==23.0.0 packaging==25.0 setproctitle==1.3.7'

main() {
    # shellcheck source=/dev/null # the release that this machine runs
    . /etc/os-release
    suite=${VERSION_CODENAME:-}
    uv=$(version_of uv)
    set -- "$project"/demo/app/requirements.txt "$project"/demo/steps/*/requirements.txt
    system="$ID $suite $(uname -m)"
    base=$cache/base-$(digest "$system $packages" "$here"/guest/*)
    wheels=$cache/wheels-$(digest "$system $uv $small with uv unpacked" "$@")

    if [ ! -d "$base" ] || [ ! -d "$wheels" ] || ! tools_are_there; then
        [ "$(id -u)" -eq 0 ] || fail 'only root can build and boot the machines of the lab'
        mkdir -p "$cache"
        exec 9>"$cache/lock"
        flock 9
        install_tools >&2
        # Both wait for the network most of the time.
        build_wheels "$@" >&2 &
        [ -d "$base" ] || build_base >&2
        wait "$!"
    fi
    printf '%s\n%s\n' "$base" "$wheels"
}

# The version of the installer that the program pins.
version_of() {
    sed -n 's/^pub([a-z]*) const VERSION: &str = "\(.*\)";$/\1/p' "$project/crates/environments/src/$1.rs" | grep . ||
        fail "crates/environments/src/$1.rs does not say which version is used"
}

# The digest of a text and of files.
digest() {
    {
        echo "$1"
        shift
        cat "$@"
    } | sha256sum | cut -c 1-16
}

fail() {
    printf 'lab: %s\n' "$1" >&2
    exit 1
}

tools_are_there() {
    for tool in systemd-nspawn mmdebstrap ip strace mkfs.ext4 nsenter flock; do
        command -v "$tool" >/dev/null || return 1
    done
}

install_tools() {
    tools_are_there && return
    command -v apt-get >/dev/null || fail 'missing: systemd-nspawn, mmdebstrap, ip, strace, mkfs.ext4 or nsenter'
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends systemd-container mmdebstrap iproute2 strace e2fsprogs util-linux \
        >/dev/null
}

# The sources of this machine's own distribution, without those of third parties, so that a program that was built here
# runs there.
sources() {
    # shellcheck disable=SC2016 # apt fills these in
    if [ -z "$(apt-get indextargets --format '$(ORIGIN)' 'Created-By: Packages' | sed '/^$/d')" ]; then
        apt-get update -qq >&2
    fi
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(ORIGIN) deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        sed -n "s/^$1 //Ip" | sort -u
}

build_base() {
    began=$(date +%s)
    new=$cache/new-base-$$
    rm -rf "$cache"/new-base-*
    [ -n "$suite" ] || fail 'this system does not say which release it is (VERSION_CODENAME in /etc/os-release)'
    sources "$ID" >"$cache/new-sources.list"
    [ -s "$cache/new-sources.list" ] || fail "apt knows no package source of $ID"
    apt-config dump --format '%F "%v";%n' Acquire::http Acquire::https |
        sed -n 's/^\(Acquire::https\{0,1\}::[^"]*\) "\(..*\)";$/\1 "\2";/p' >"$cache/new-apt.conf"
    # Nothing has to survive a power cut before the sync below.
    mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt="$cache/new-apt.conf" \
        --dpkgopt=force-unsafe-io --customize-hook="$here/guest/customize \"\$1\" $here/guest" \
        "$suite" "$new" "$cache/new-sources.list"
    rm -f "$cache/new-sources.list" "$cache/new-apt.conf"
    sync -f "$new"
    mv -T "$new" "$base"
    echo "lab: base root file system of $ID $suite built in $(($(date +%s) - began)) s: $base"
}

# A directory in the form of PEP 503: usable directly (file://), or served. And the installer in the place of the
# program, for machines that need no download of it.
build_wheels() {
    [ ! -d "$wheels" ] || return 0
    began=$(date +%s)
    new=$cache/new-wheels-$$
    rm -rf "$cache"/new-wheels-*
    mkdir -p "$new/all" "$new/simple"
    /usr/bin/python3 -m venv "$new/venv"
    download() {
        "$new/venv/bin/python" -m pip --disable-pip-version-check --quiet download \
            --only-binary :all: --dest "$new/all" "$@"
    }
    for list in "$@"; do
        download --requirement "$list"
    done
    download "uv==$uv"
    for package in $small; do
        download --no-deps "$package"
    done
    for wheel in "$new"/all/*.whl; do
        file=$(basename -- "$wheel")
        name=$(printf '%s\n' "${file%%-*}" | tr 'A-Z_.' 'a-z--')
        mkdir -p "$new/simple/$name"
        mv "$wheel" "$new/simple/$name/"
        printf '<a href="%s#sha256=%s">%s</a><br>\n' "$file" \
            "$(sha256sum <"$new/simple/$name/$file" | cut -d ' ' -f 1)" "$file" >>"$new/simple/$name/index.html"
        printf '<a href="%s/">%s</a><br>\n' "$name" "$name" >>"$new/names"
    done
    sort -u "$new/names" >"$new/simple/index.html"
    mkdir -p "$new/tools/uv-$uv"
    /usr/bin/python3 -c 'import shutil, sys, zipfile
name = next(name for name in zipfile.ZipFile(sys.argv[1]).namelist() if name.endswith(".data/scripts/uv"))
with zipfile.ZipFile(sys.argv[1]).open(name) as packed, open(sys.argv[2], "wb") as program:
    shutil.copyfileobj(packed, program)' "$new"/simple/uv/uv-*.whl "$new/tools/uv-$uv/uv"
    chmod 755 "$new/tools/uv-$uv/uv"
    rm -rf "$new/all" "$new/venv" "$new/names"
    chmod -R a+rX "$new"
    sync -f "$new"
    mv -T "$new" "$wheels"
    echo "lab: package index built in $(($(date +%s) - began)) s: $wheels"
}

main

#!/bin/sh
# Tests the entire project: format, lints, documents, tests, and the demo from beginning to end.
#
#   ./scripts/test.sh            everything
#   ./scripts/test.sh --quick    format, lints and unit tests, for the inner loop
#
# Installs missing packages if it can (root on a machine with apt); otherwise it names them. Stops at the first stage
# that fails and prints the duration of each stage.

set -eu

cd "$(dirname -- "$0")/.."
scratch=$(mktemp -d)
summary=$scratch/summary
: >"$summary"
began=$(date +%s)
trap 'code=$?; trap - EXIT; finish "$code"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

main() {
    mode=full
    case ${1:-} in
    '') ;;
    --quick) mode=quick ;;
    *)
        echo "usage: scripts/test.sh [--quick]" >&2
        exit 2
        ;;
    esac
    if [ "${CI:-}" = true ]; then
        # Nothing is built twice in CI, so incremental data is lost time. No debugger runs there either, and every
        # machine of the lab gets a copy of the program: without debug information it has a third of the size.
        export CARGO_INCREMENTAL=0 CARGO_TERM_PROGRESS_WHEN=never
        export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=symbols
    fi

    stage tools find_tools
    find_rust
    [ "$mode" = quick ] || begin_lab
    stage format cargo fmt --all --check
    stage scripts check_scripts
    stage lints cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
    if [ "$mode" = quick ]; then
        stage unit-tests cargo test --locked --quiet --workspace --lib
        return
    fi
    stage documents env RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --quiet
    stage tests run_tests
}

# Runs one stage and records its time; a stage that fails ends everything.
stage() {
    name=$1
    shift
    printf '\n== %s\n' "$name"
    start=$(date +%s)
    # sh has no local variables: no function that a stage calls may set one of these.
    stage_code=0
    "$@" || stage_code=$?
    took=$(($(date +%s) - start))
    if [ "$stage_code" -eq 0 ]; then
        printf '%-12s %5d s   passed\n' "$name" "$took" >>"$summary"
    else
        printf '%-12s %5d s   FAILED (exit %d)\n' "$name" "$took" "$stage_code" >>"$summary"
        exit 1
    fi
}

finish() {
    [ -z "${lab:-}" ] || kill "$lab" 2>/dev/null || true
    [ -z "${base:-}" ] || [ -e "$scratch/base.code" ] || kill -- "-$base" 2>/dev/null || true
    # An interrupted demo leaves its server and service; they are ended with their directory.
    [ ! -e "$scratch/demo/demo.lock" ] || demo/demo.py --dir "$scratch/demo" --stop || true
    printf '\n== summary\n'
    cat "$summary"
    printf '%-12s %5d s\n' 'in all' $(($(date +%s) - began))
    rm -rf "$scratch"
    [ "$1" -eq 0 ] || echo 'not everything passed' >&2
    exit "$1"
}

# Finds the programs that build, tests and demo use, and installs missing ones.
find_tools() {
    missing=
    command -v cc >/dev/null || missing="$missing gcc libc6-dev"
    command -v git >/dev/null && [ -x "$(git --exec-path)/git-daemon" ] || missing="$missing git"
    /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3 python3-venv"
    command -v strace >/dev/null || missing="$missing strace"
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
    if [ -n "$missing" ]; then
        if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
            printf 'missing:%s\nhint: as root: apt-get install%s\n' "$missing" "$missing" >&2
            return 1
        fi
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086 # names of packages, split on purpose
        apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null || return 1
    fi
    if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
        printf 'missing: Rust\nhint: install it with rustup, then try again\n' >&2
        return 1
    fi
    git --version
    /usr/bin/python3 --version
}

# Puts cargo on the PATH if it is only in its own directory.
find_rust() {
    command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
    export PATH
    cargo --version
}

check_scripts() {
    scripts/check_words.py || return 1
    scripts/module_graph.py --check || return 1
    scripts/public_items.py --check || return 1
    for script in scripts/*.sh lab/*.sh lab/*/*.sh lab/guest/*; do
        sh -n "$script" || return 1
    done
    if command -v shellcheck >/dev/null; then
        shellcheck scripts/*.sh lab/*.sh lab/*/*.sh lab/guest/* .ci/run
    else
        echo 'shellcheck is not installed; the scripts were only parsed'
    fi
}

# Begins to build the base of the machines of the lab, if this machine can boot them. Packages come from the network
# meanwhile, so only the tests on these machines wait for them. It is a process group, which can be ended as one.
begin_lab() {
    [ "$(id -u)" -eq 0 ] || return 0
    # shellcheck disable=SC2016 # for the inner shell
    setsid sh -c './lab/base.sh >"$1.out" 2>&1; echo $? >"$1.new"; mv "$1.new" "$1.code"' sh "$scratch/base" &
    base=$!
}

# Runs the tests on machines of the lab. Without a base they report themselves as skipped, and fail in CI.
run_lab() {
    if [ -n "${base:-}" ]; then
        # Its process group is gone if it was killed; then it has left no code.
        while [ ! -e "$scratch/base.code" ] && kill -0 -- "-$base" 2>/dev/null; do sleep 1; done
        cat "$scratch/base.out"
        [ "$(cat "$scratch/base.code")" -eq 0 ] || return 1
    else
        echo 'not root: the tests on real machines are left out'
    fi
    run_programs "$scratch/lab.run" --test lab
}

# Runs the tests in two lanes, since most of them wait for programs most of the time: in one those on machines of the
# lab, whose output comes when the others are over, in the other all others and the demo.
run_tests() {
    export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 2))}"
    cargo test --locked --quiet --workspace --no-run || return 1
    run_lab >"$scratch/lab.out" 2>&1 &
    lab=$!
    lanes_code=0
    run_programs "$scratch/most.out" --workspace --lib --bins --test order --test it --test crash || lanes_code=$?
    show_demo || true
    wait "$lab" || lanes_code=$?
    lab=
    cat "$scratch/lab.out"
    [ "$demo_code" -eq 0 ] || return 1
    [ "$lanes_code" -ne 0 ] || return 0
    # Two lanes at once may be too much load for a slow machine: tests that failed under it run again without it.
    repeat_alone "$scratch/most.out" --workspace --lib --bins --test order --test it --test crash || return 1
    repeat_alone "$scratch/lab.run" --test lab
}

# Runs test programs, prints their output, and keeps it in a file.
run_programs() {
    output=$1
    shift
    {
        programs_code=0
        cargo test --locked --quiet --no-fail-fast "$@" 2>&1 || programs_code=$?
        echo "$programs_code" >"$output.code"
    } | tee "$output"
    return "$(cat "$output.code")"
}

# Runs the failed tests of an output again, one after the other, and prints their names. Fails if one fails again, and
# if more than five had failed: so many are no accident.
repeat_alone() {
    output=$1
    shift
    [ -s "$output.code" ] || return 1
    [ "$(cat "$output.code")" -ne 0 ] || return 0
    names=$(failed_tests "$output")
    failed=$(printf '%s\n' "$names" | grep -c .) || return 1
    [ "$failed" -le 5 ] || return 1
    printf '\nFAILED UNDER LOAD, run again alone:\n%s\n' "$names"
    # shellcheck disable=SC2086 # names of tests, split on purpose
    RUST_TEST_THREADS=1 cargo test --locked --quiet --no-fail-fast "$@" -- --exact $names 2>&1 |
        tee "$output.again" || return 1
    passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed; 0 failed;.*/\1/p' "$output.again" |
        awk '{ sum += $1 } END { print sum + 0 }')
    if grep -q '^test result: FAILED' "$output.again"; then
        return 1
    fi
    [ "$passed" -ge "$failed" ]
}

# Prints the names of the tests that failed, from the output of test programs: the last list of each program, since the
# output of a failed test may contain the list of a program that it ran itself.
failed_tests() {
    awk '
        /^failures:$/ { names = ""; is_list = 1 }
        /^test result:/ { is_list = 0 }
        is_list && /^    [A-Za-z0-9_:]+$/ { names = names $1 "\n" }
        /^error: test failed/ { printf "%s", names; names = "" }' "$1" | sort -u
}

# Shows the demo in a new directory, requests its service at its address, and ends it. Leaves its code in demo_code.
show_demo() {
    program=${CARGO_TARGET_DIR:-target}/debug/ladylinux-refresh
    demo_code=0
    timeout 600 demo/demo.py --program "$program" --dir "$scratch/demo" >"$scratch/demo.out" 2>&1 || demo_code=$?
    cat "$scratch/demo.out"
    url=$(tail -n 1 "$scratch/demo.out")
    if [ "$demo_code" -eq 0 ]; then
        /usr/bin/python3 -c '
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
answer = opener.open(sys.argv[1], timeout=10)
print(sys.argv[1], "answers", answer.status)' "$url" || demo_code=$?
    fi
    demo/demo.py --dir "$scratch/demo" --stop && rm -rf "$scratch/demo" || demo_code=$?
    return "$demo_code"
}

main "$@"

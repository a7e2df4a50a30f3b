#!/bin/sh
# Shows the page of a fenced machine of the lab in a real browser, and takes the pictures in docs/images.
#
#   ./scripts/page_picture.sh
#
# Installs Debian's chromium if it can (root on a machine with apt, about 100 MB). Not part of scripts/test.sh, which
# tests the page itself without a browser.

set -eu

cd "$(dirname -- "$0")/.."

if ! command -v chromium >/dev/null; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "page_picture.sh: chromium is missing (Debian: apt-get install chromium)" >&2
        exit 1
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core
fi

LADYLINUX_REFRESH_PICTURES=$PWD/docs/images cargo test --locked --test lab -- --ignored --nocapture \
    a_browser_shows_the_page_of_a_fenced_machine_and_then_the_application
ls -l docs/images

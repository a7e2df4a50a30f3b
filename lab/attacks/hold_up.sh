#!/bin/sh
# Creates, as the service user, files that once prevented a refresh.
#
#   hold_up.sh NAME

set -eu
cd /opt/ladylinux/app

case $1 in
include)
    printf '[includeIf "gitdir:/"]\n\tpath = /etc/shadow\n' >>.git/config
    ;;
alternates)
    mkdir -p .git/objects/info
    rm -f .git/objects/info/alternates
    echo /root/objects >.git/objects/info/alternates
    ;;
shallow)
    ln -sf /etc/shadow .git/shallow
    rm -f .git/FETCH_HEAD
    mkfifo .git/FETCH_HEAD
    ;;
pipes)
    mkdir -p .git/info .git/objects/info
    for name in HEAD config packed-refs shallow info/exclude objects/info/alternates; do
        rm -f ".git/$name"
        mkfifo ".git/$name"
    done
    ;;
deep)
    python3 - <<'P'
import os
for _ in range(3000):
    os.mkdir("deep-deep-deep")
    os.chdir("deep-deep-deep")
P
    ;;
unreadable)
    mkdir closed
    touch closed/file
    chmod 000 closed
    ;;
hooks)
    mkdir -p .git/hooks
    for name in post-checkout reference-transaction post-index-change fsmonitor-watchman; do
        printf '#!/bin/sh\nsleep 600\n' >".git/hooks/$name"
        chmod +x ".git/hooks/$name"
    done
    git config core.fsmonitor .git/hooks/fsmonitor-watchman
    ;;
*)
    echo "hold_up.sh: no attack is called $1" >&2
    exit 2
    ;;
esac

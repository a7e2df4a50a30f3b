"""Replaces `app` by a link to a directory of root, and back, again and again. Arguments: seconds, that directory."""

import ctypes
import os
import sys

from tracing import for_seconds, note

HOME = "/opt/ladylinux"
libc = ctypes.CDLL(None, use_errno=True)
seconds, target = sys.argv[1:]


def exchange():
    return libc.renameat2(-100, f"{HOME}/app".encode(), -100, f"{HOME}/.link".encode(), 2) == 0


try:
    os.symlink(target, f"{HOME}/.link")
except OSError as error:
    note("refused", error)
    sys.exit()
count = 0
for _ in for_seconds(float(seconds)):
    count += exchange()
if os.path.islink(f"{HOME}/app"):
    exchange()
note("exchanged", count, "times")

"""Reaches for every process of this user that is in a unit of the tool's. Arguments: seconds, and `look` or `kill`.

Each success is a line that begins with REACHED; what is noticed only once is a line that begins with FOUND.
"""

import ctypes
import os
import signal
import sys

from tracing import ATTACH, DETACH, command, for_seconds, note, own_processes, ptrace, read


def reach(pid):
    for name in ("mem", "environ", "maps", "stack", "auxv"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                file.read(1)
            note("REACHED", name, "of", pid, command(pid))
        except (OSError, OverflowError, ValueError) as error:
            if getattr(error, "errno", 5) == 5:
                note("REACHED", name, "of", pid, "opened")
    for name in ("root", "cwd", "exe", "fd", "ns/mnt"):
        try:
            found = os.listdir(f"/proc/{pid}/{name}") if name in ("root", "fd") else os.readlink(f"/proc/{pid}/{name}")
            note("REACHED", name, "of", pid, found)
        except OSError:
            pass
    try:
        ptrace(ATTACH, pid)
        note("REACHED", "trace", "of", pid)
        os.waitpid(pid, 0x40000000)
        ptrace(DETACH, pid)
    except OSError:
        pass


seconds, how = sys.argv[1:]
note("watching for units")
seen = set()
for _ in for_seconds(float(seconds)):
    for pid in own_processes():
        group = read(f"/proc/{pid}/cgroup").decode()
        if "ladylinux-refresh" not in group:
            continue
        if pid not in seen:
            seen.add(pid)
            note("FOUND", pid, group.splitlines()[0], command(pid))
            if how == "look":
                reach(pid)
        if how == "kill":
            try:
                os.kill(pid, signal.SIGKILL)
                note("killed", pid)
            except OSError as error:
                note("could not kill", pid, error)

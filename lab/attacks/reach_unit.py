"""Reaches for every process of this user that is in a unit of the tool's. Arguments: seconds, and `look` or `kill`.

`look` tries everything that the kernel lets one process do to another; `kill` ends the unit that waits for the stop.
Each success is a line that begins with REACHED, and with the kind of the unit; a process that is met is FOUND.
"""

import os
import re
import signal
import sys

from tracing import ATTACH, DETACH, command, for_seconds, note, own_processes, ptrace, read


def reach(pid, unit):
    for name in ("mem", "environ", "maps", "auxv"):
        try:
            with open(f"/proc/{pid}/{name}", "rb"):
                note("REACHED", unit, name, "of", pid, command(pid))
        except OSError:
            pass
    for name in ("root", "cwd", "exe", "fd", "ns/mnt"):
        try:
            found = os.listdir(f"/proc/{pid}/{name}") if name in ("root", "fd") else os.readlink(f"/proc/{pid}/{name}")
            note("REACHED", unit, name, "of", pid, found)
        except OSError:
            pass
    try:
        ptrace(ATTACH, pid)
        note("REACHED", unit, "trace", "of", pid, command(pid))
        os.waitpid(pid, 0x40000000)
        ptrace(DETACH, pid)
    except OSError:
        pass


seconds, how = sys.argv[1:]
# It goes on while the service is being stopped, for as long as systemd lets it.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("watching for units")
seen = set()
for _ in for_seconds(float(seconds)):
    for pid in own_processes():
        found = re.search(r"/ladylinux-refresh-([a-z]+)?[^/\n]*\.service", read(f"/proc/{pid}/cgroup").decode())
        if not found:
            continue
        unit = found[1] or "run"
        if pid not in seen:
            seen.add(pid)
            note("FOUND", unit, pid, command(pid))
        if how == "look":
            reach(pid, unit)
        elif unit == "align":
            try:
                os.kill(pid, signal.SIGKILL)
                note("killed", pid)
            except OSError as error:
                note("could not kill", pid, error)

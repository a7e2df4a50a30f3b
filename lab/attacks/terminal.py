"""Root at a terminal: types each argument into an interactive shell, waits for its prompt, and prints its output."""

import os
import pty
import select
import sys
import time

PROMPT = "root@terminal> "
LIMIT = 120


def show_until_prompt(terminal):
    shown, end = "", time.monotonic() + LIMIT
    while not shown.endswith(PROMPT):
        if time.monotonic() > end:
            sys.exit(f"no prompt after {LIMIT} s:\n{shown}")
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                shown += os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                break
    return shown


process, terminal = pty.fork()
if process == 0:
    os.execve("/bin/sh", ["sh", "-i"], {**os.environ, "PS1": PROMPT, "TERM": "dumb"})
sys.stdout.write(show_until_prompt(terminal))
for line in [*sys.argv[1:], "true"]:
    os.write(terminal, line.encode() + b"\n")
    sys.stdout.write(show_until_prompt(terminal))
    # Commands that others typed in the meantime are executed now.
    time.sleep(0.2)
os.write(terminal, b"exit\n")
time.sleep(0.2)

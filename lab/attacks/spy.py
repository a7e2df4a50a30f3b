"""Reads all command lines and environments that this user can read, and records those with a secret.

Arguments: seconds, and the secrets.
"""

import os
import sys

from tracing import for_seconds, note, read

secrets = [secret.encode() for secret in sys.argv[2:]]
own = {os.getpid(), os.getppid()}
noted = set()
note("spying")
for _ in for_seconds(float(sys.argv[1])):
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in own:
            continue
        for what in ("cmdline", "environ"):
            text = read(f"/proc/{name}/{what}")
            if b"spy.py" in text:
                continue
            for secret in secrets:
                if secret in text and (name, what, secret) not in noted:
                    noted.add((name, what, secret))
                    note("SPIED", secret.decode(), what, name, text.replace(b"\0", b" ").decode(errors="replace")[:400])

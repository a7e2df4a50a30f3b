"""Ends the tool's units that run as this user. Arguments: seconds, the kind of the units, and how many are ended.

The end of each is a line that begins with ENDED and with the kind of the unit.
"""

import os
import re
import signal
import sys

from tracing import for_seconds, note, own_processes, read

seconds, kind, limit = sys.argv[1:]
# It continues while the service is being stopped, as long as systemd permits it.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("watching for units")
ended = set()
for _ in for_seconds(float(seconds)):
    for pid in own_processes():
        found = re.search(r"/(ladylinux-refresh-([a-z]+)-[^/\n]*\.service)", read(f"/proc/{pid}/cgroup").decode())
        if not found or found[2] != kind or (found[1] not in ended and len(ended) == int(limit)):
            continue
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
        if found[1] not in ended:
            ended.add(found[1])
            note("ENDED", kind, pid)

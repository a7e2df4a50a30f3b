"""The program of a worker: records the edition that it runs, and waits. Argument: its name."""

import pathlib
import sys
import time

import edition

pathlib.Path("/var/lib/ladylinux/data", f"{sys.argv[1]}.edition").write_text(edition.EDITION)
time.sleep(1e9)

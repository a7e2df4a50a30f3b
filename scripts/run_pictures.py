#!/usr/bin/env python3
"""Makes docs/images/run.svg and docs/images/halted.svg from real runs of the demo.

    scripts/run_pictures.py            build the program, play the demo, write the pictures
    scripts/run_pictures.py FILE       write them from the output of a demo that was kept in FILE
"""

import html
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
# The picture, and the subject of the commit whose refresh it shows.
PICTURES = {
    "run.svg": "Give the second edition its headline and colour",
    "halted.svg": "Let notes be pinned",
}
COLUMNS = 100
# In pixels: the size of the letters, their width, the height of a line, and the border.
FONT, WIDTH, HEIGHT, BORDER = 13, 7.83, 18, 16
COLORS = [
    (r"^\$ ", "#9ecbff"),
    (r"^✓", "#7ee787"),
    (r"^(✗|Halted|error)", "#ff7b72"),
    (r"^Refreshed", "#7ee787"),
    (r"^ *[a-z]+\| ", "#8b949e"),
]
PLAIN = "#e6edf3"


def output_of_demo():
    """Plays the demo in a temporary directory and returns its output."""
    with tempfile.TemporaryDirectory() as directory:
        demo = [str(PROJECT / "demo/demo.py"), "--dir", f"{directory}/demo"]
        played = subprocess.run(demo, stdout=subprocess.PIPE, text=True, check=True)
        subprocess.run([*demo, "--stop"], stdout=subprocess.DEVNULL, check=True)
        return played.stdout


def lines_of_run(output, subject):
    """Returns the lines of the first run after the push of the commit with this subject, without the demo's indent."""
    lines = iter(output.splitlines())
    for line in lines:
        if re.fullmatch(r"pushed [0-9a-f]+ " + re.escape(subject), line):
            break
    root = ""
    found = []
    for line in lines:
        if command := re.fullmatch(r"\$ \S+ --root (\S+) run", line):
            root = command.group(1)
            found.append("$ ladylinux-refresh run")
        elif line.startswith("-- exit"):
            return [shortened(line.replace(f" --root {root}", "").replace(root, "")) for line in found]
        elif found:
            found.append(line.removeprefix("    "))
    raise SystemExit(f"the output has no run after {subject!r}")


def shortened(line):
    return line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"


def picture(lines):
    """Returns an SVG with the lines on a dark terminal."""
    width = round(2 * BORDER + COLUMNS * WIDTH)
    height = 2 * BORDER + len(lines) * HEIGHT
    texts = []
    for number, line in enumerate(lines):
        color = next((color for pattern, color in COLORS if re.search(pattern, line)), PLAIN)
        y = BORDER + FONT + number * HEIGHT
        texts.append(f'<text x="{BORDER}" y="{y}" fill="{color}">{html.escape(line)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n'
        f'<g font-family="ui-monospace, monospace" font-size="{FONT}" xml:space="preserve">\n'
        + "\n".join(texts)
        + "\n</g>\n</svg>\n"
    )


def main():
    output = Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else output_of_demo()
    for name, subject in PICTURES.items():
        (PROJECT / "docs/images" / name).write_text(picture(lines_of_run(output, subject)))


if __name__ == "__main__":
    main()

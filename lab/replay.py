#!/usr/bin/env python3
"""Refreshes an installation through the history of a repository, commit by commit, and compares it with each commit.

    lab/replay.py --source REPOSITORY --root DIRECTORY --origin BARE [--program P] [--last N]
                  [--answer FILE] [--exact] [--port N]

SOURCE is the repository whose history is replayed (its HEAD, first parents only). ORIGIN is the bare repository that the
installation below ROOT follows: its branch `main` is moved to each commit in turn. ROOT is initialized, so its
`etc/ladylinux/refresh.toml` has the start command, the probe, the hooks and the remote.

After each refresh it compares:

- the tree: every file, mode and link of the commit is in app/, and app/ has nothing else that git does not ignore;
- the environment: every `name==version` of requirements.txt without a marker is installed (`--exact`: and no other);
- the answer: the service answers at its port, with the content of the file `--answer` in it.

A worked example: lab/README.md. Prints a line per step, and ends with 1 if anything differs or a refresh fails.
"""

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CLEAN = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
SITE = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"


def git(repository, *words):
    command = ["git", "-C", repository, *words]
    return subprocess.run(command, env=CLEAN, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


def history(source, last):
    """Returns the commits of the first parents, the oldest first."""
    commits = git(source, "rev-list", "--first-parent", "--reverse", "HEAD").decode().split()
    return commits[-last:] if last else commits


def expected_tree(source, commit):
    """Returns path -> (mode, object) of a commit; gitlinks are left out."""
    entries = git(source, "ls-tree", "-r", "-z", commit).split(b"\0")
    found = {}
    for entry in filter(None, entries):
        facts, path = entry.split(b"\t", 1)
        mode, kind, name = facts.split()
        if kind == b"blob":
            found[path] = (mode.decode(), name.decode())
    return found


def actual_entry(path):
    """Returns (mode, object) of a file or link as git records it."""
    if os.path.islink(path):
        mode, content = "120000", os.readlink(path)
    else:
        with open(path, "rb") as file:
            content = file.read()
        mode = "100755" if os.stat(path).st_mode & 0o100 else "100644"
    return mode, hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def actual_tree(app):
    """Returns path -> (mode, object) of everything in app/ besides its repository."""
    found = {}
    for directory, directories, files in os.walk(app):
        if directory == app:
            directories.remove(b".git")
        links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
        for name in files + links:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, app)] = actual_entry(path)
    return found


def compare_trees(source, commit, app):
    expected, actual = expected_tree(source, commit), actual_tree(os.fsencode(app))
    differences = [f"{os.fsdecode(path)}: missing" for path in expected.keys() - actual.keys()]
    for path in expected.keys() & actual.keys():
        if expected[path] != actual[path]:
            differences.append(f"{os.fsdecode(path)}: {actual[path]} is not {expected[path]}")
    extra = sorted(actual.keys() - expected.keys())
    if extra:
        command = ["git", "-C", str(app), "-c", "safe.directory=*", "check-ignore", "--no-index", "-z", "--stdin"]
        asked = subprocess.run(command, env=CLEAN, input=b"\0".join(extra) + b"\0", capture_output=True)
        ignored = set(asked.stdout.split(b"\0"))
        differences += [f"{os.fsdecode(path)}: not in the commit" for path in extra if path not in ignored]
    return differences


def normal(name):
    """Returns the normalized name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def normal_version(version):
    """Returns a version without what makes no difference: case, a leading `v`, zeros at the end of the release (PEP 440)."""
    found = re.fullmatch(r"v?(\d+(?:\.\d+)*)(.*)", version.strip().lower())
    if not found:
        return version
    release = [str(int(number)) for number in found[1].split(".")]
    while len(release) > 1 and release[-1] == "0":
        release.pop()
    return ".".join(release) + found[2]


def pins(text):
    """Returns name -> version of each line `name==version` that holds for every host."""
    lines = text.splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*==\s*([^\s;#*]+)\s*(;|#|\\|$)", line) for line in lines)
    return {normal(pin[1]): normal_version(pin[2]) for pin in found if pin and pin[3] != ";"}


def compare_environments(app, python, exact):
    requirements = app / "requirements.txt"
    expected = pins(requirements.read_text()) if requirements.is_file() else {}
    shown = subprocess.run([python, "-I", "-c", SITE], capture_output=True, check=True, text=True)
    actual = {normal(name): normal_version(version) for name, version in json.loads(shown.stdout).items()}
    names = expected.keys() | actual.keys() if exact else expected.keys()
    return [f"{name}: {actual.get(name)} is not {expected.get(name)}" for name in names if actual.get(name) != expected.get(name)]


def compare_answers(app, port, answer):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/", timeout=30) as response:
            text = response.read().decode(errors="replace")
    except OSError as error:
        return [f"no answer: {error}"]
    wanted = (app / answer).read_text().strip() if answer else ""
    return [] if wanted in text else [f"the answer has no {wanted!r}: {text[:200]!r}"]


def step(options, commit):
    """Refreshes to a commit; returns the seconds and the differences."""
    git(options.origin, "update-ref", "refs/heads/main", commit)
    began = time.monotonic()
    command = [options.program, "--root", options.root, "run"]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if ran.returncode != 0:
        return seconds, [f"run: exit {ran.returncode}: {(ran.stdout + ran.stderr)[-2000:]}"]
    base = options.root / "opt/ladylinux"
    differences = compare_trees(options.source, commit, base / "app")
    differences += compare_environments(base / "app", base / "venv/bin/python", options.exact)
    return seconds, differences + compare_answers(base / "app", options.port, options.answer)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, type=Path)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--origin", required=True, type=Path)
    parser.add_argument("--program", default=PROJECT / "target/release/ladylinux-refresh", type=Path)
    parser.add_argument("--last", default=0, type=int)
    parser.add_argument("--answer")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--port", default=8000, type=int)
    return parser.parse_args()


def main():
    options = arguments()
    commits = history(options.source, options.last)
    git(options.origin, "fetch", "--quiet", str(options.source.resolve()), commits[-1])
    times, wrong = [], 0
    for number, commit in enumerate(commits, 1):
        seconds, differences = step(options, commit)
        times.append(seconds)
        wrong += bool(differences)
        subject = git(options.source, "show", "--no-patch", "--format=%s", commit).decode().strip()
        print(f"{number:4} {commit[:10]} {seconds:6.2f} s  {'differs' if differences else 'same':8}{subject}", flush=True)
        for difference in differences:
            print(f"       {difference}", flush=True)
    print(f"{len(commits)} steps, {wrong} with differences; median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
    sys.exit(1 if wrong or not commits else 0)


if __name__ == "__main__":
    main()

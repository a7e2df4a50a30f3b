#!/usr/bin/env python3
"""Adds commits to a working tree that has a commit already: changes of every kind, always in the same order.

    lab/generated_history.py WORK_TREE [--commits N]

Files are added, changed, renamed, removed, made executable; links change their targets; a file becomes a directory and a
directory a file; names have spaces, umlauts and a backslash; a file has 2 MB; requirements go up and down and lose a package;
migrations come; merges and reverts. `version.txt` is another one in each commit.
"""

import argparse
import os
import shutil
import subprocess
from pathlib import Path

ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "A"), ("EMAIL", "a@localhost"))},
}
HOOK = """
[[hook]]
name = "count"
kind = "assets"
command = ["sh", "-c", "mkdir -p built && ls migrations 2>/dev/null | wc -l >built/migrations.txt"]
"""
REQUIREMENTS = ("six==1.17.0\n", "six==1.16.0\n", "six==1.16.0\niniconfig==2.0.0\n", "iniconfig==2.0.0\n", "six==1.17.0\niniconfig==2.0.0\n")


class History:
    def __init__(self, tree):
        self.tree = tree
        self.number = 0

    def git(self, *words):
        subprocess.run(["git", "-C", self.tree, *words], env=ENVIRONMENT, check=True, capture_output=True)

    def write(self, path, text):
        place = self.tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text if isinstance(text, bytes) else text.encode())

    def remove(self, path):
        place = self.tree / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def commit(self, subject):
        self.number += 1
        self.write("version.txt", f"version {self.number}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)

    # One kind of change each.

    def text(self, round_):
        self.write("pages/index.txt", f"page of round {round_}\n" * (round_ + 1))

    def new_files(self, round_):
        for name in ("plain", "with space", "übung", "back\\slash", "-dash", "'quote'"):
            self.write(f"files/{round_}/{name}.txt", f"{name} {round_}\n")

    def renamed(self, round_):
        old = self.tree / f"files/{round_}/plain.txt"
        old.rename(old.with_name("renamed.txt"))

    def case(self, round_):
        old = self.tree / f"files/{round_}/renamed.txt"
        old.rename(old.with_name("Renamed.txt"))

    def executable(self, round_):
        self.write("tool.sh", "#!/bin/sh\necho tool\n")
        os.chmod(self.tree / "tool.sh", 0o755 if round_ % 2 == 0 else 0o644)

    def link(self, round_):
        self.remove("link")
        os.symlink(("version.txt", "pages", "nowhere", "../outside")[round_ % 4], self.tree / "link")

    def kind(self, round_):
        self.remove("shape")
        self.write("shape" if round_ % 2 else "shape/inside/file.txt", f"round {round_}\n")

    def large(self, round_):
        self.write("large.bin", bytes((index * (round_ + 3)) % 251 for index in range(2000)) * 1000)

    def requirements(self, round_):
        self.write("requirements.txt", REQUIREMENTS[round_ % len(REQUIREMENTS)])

    def migration(self, round_):
        self.write(f"migrations/{round_:04}.sql", f"create table t{round_} (id integer);\n")

    def rules(self, round_):
        self.write(".gitignore", "built/\n__pycache__/\n" + ("*.tmp\n" if round_ % 2 else ""))
        self.write("refresh.toml", HOOK if round_ % 3 else "")

    def empty(self, round_):
        self.write(f"empty/{round_}", "")
        self.remove(f"empty/{round_ - 1}")

    def removed(self, round_):
        self.remove(f"files/{round_}")

    # Changes of the graph.

    def merge(self, round_):
        self.git("checkout", "--quiet", "-b", f"side-{round_}")
        self.write(f"side/{round_}.txt", "from the side\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Work beside")
        self.git("checkout", "--quiet", "main")
        self.write("beside.txt", f"round {round_}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Work on main")
        self.git("merge", "--quiet", "--no-ff", "--no-commit", f"side-{round_}")
        self.number += 1

    def revert(self, _):
        self.git("revert", "--no-commit", "HEAD")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--commits", default=100, type=int)
    options = parser.parse_args()
    history = History(options.tree)
    kinds = (
        "rules", "text", "new_files", "renamed", "case", "executable", "link", "kind", "large", "requirements", "migration",
        "merge", "empty", "revert", "removed",
    )  # fmt: skip
    round_ = 0
    while history.number < options.commits:
        for kind in kinds:
            if history.number < options.commits:
                getattr(history, kind)(round_)
                history.commit(f"{kind.replace('_', ' ').capitalize()} {round_}")
        round_ += 1


if __name__ == "__main__":
    main()

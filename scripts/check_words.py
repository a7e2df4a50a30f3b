#!/usr/bin/env python3
"""Checks the words of docs/style.md: in documents that follow it none of the words occurs and no sentence is long, and
in all other files the counts do not grow.

    scripts/check_words.py             check
    scripts/check_words.py --counts    print the counts of each word, and of long sentences

`scripts/words.json` holds the files that follow the guide, and the largest count of each word in the others.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LIMITS = PROJECT / "scripts/words.json"
# The guide itself contains the words, and so does this check. The list of public items has no sentences.
EXEMPT = {"docs/style.md", "docs/public-items.md", "scripts/check_words.py", "scripts/words.json"}
WORDS = [
    "anew", "anybody", "folder", "gone by", "goes by", "lies there", "looks whether", "nobody", "of its own",
    "somebody", "tell", "tells", "told", "under way", "what is there", "whoever", "wish",
]  # fmt: skip
LONGEST_SENTENCE = 30
LONG = "long sentences"


def files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
    endings = (".md", ".rs", ".sh", ".py", ".toml")
    return [name for name in listed.stdout.split("\0") if name.endswith(endings) and name not in EXEMPT]


def sentences(text):
    """Returns the sentences of a Markdown page, without code blocks and tables."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*#|]|\d+\.)\s)", text)
    prose = (" ".join(part.split()) for part in paragraphs if not part.lstrip().startswith("|"))
    return [found for part in prose for found in re.split(r"(?<=[.:!?])\s+", part)]


def counts_of(name):
    """Returns how often each word occurs in a file, and in a document how many sentences are too long."""
    text = (PROJECT / name).read_text(errors="replace")
    found = {word: len(re.findall(rf"\b{word}\b", text, re.IGNORECASE)) for word in WORDS}
    if name.endswith(".md"):
        found[LONG] = sum(len(sentence.split()) > LONGEST_SENTENCE for sentence in sentences(text))
    return {word: count for word, count in found.items() if count}


def main():
    limits = json.loads(LIMITS.read_text())
    plain, total, failures = set(limits["plain"]), {}, []
    for name in files():
        counts = counts_of(name)
        if name in plain:
            failures += [f"{name}: {word}: {count}" for word, count in counts.items()]
        for word, count in counts.items():
            total[word] = total.get(word, 0) + count
    if sys.argv[1:] == ["--counts"]:
        print(json.dumps(dict(sorted(total.items())), indent=4))
        return
    most = limits["most"]
    failures += [
        f"{word}: {count} in all files, {most.get(word, 0)} at most"
        for word, count in total.items()
        if count > most.get(word, 0)
    ]
    if failures:
        sys.exit("words of docs/style.md:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()

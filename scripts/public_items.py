#!/usr/bin/env python3
"""Lists the public items of each crate, and fails if no other crate names one of them.

    scripts/public_items.py            check, and write docs/public-items.md
    scripts/public_items.py --check    check only, also that the committed list is current

An item is a function, type, trait, constant or module. It is public where it is `pub` alone. Tests are users too. A type
needs no user that names it: functions return it and fields hold it.
"""

import re
import sys

import module_graph

LIST = module_graph.PROJECT / "docs/public-items.md"
ITEM = re.compile(r"^\s*pub (?:const |async |unsafe )*(fn|struct|enum|trait|type|const|static|mod) (\w+)", re.MULTILINE)
TYPES = ("struct", "enum", "trait", "type")
HEAD = """# Public items

What each crate offers to the crates above it. `scripts/public_items.py` writes this list and fails on an item that no other
crate uses.

| crate | items |
|---|---|
"""


def code_of(directory):
    """Returns the code of each file below a directory, without comments and texts."""
    return {file: module_graph.without_texts(file.read_text()) for file in sorted(directory.rglob("*.rs"))}


def words_of(codes):
    return {word for code in codes for word in re.findall(r"\w+", code)}


def items_of(code):
    """Returns kind and name of each public item that is not in a test."""
    return ITEM.findall(module_graph.without_tests(code)[0])


def main():
    project = module_graph.PROJECT
    crates = {path.name: code_of(path / "src") for path in sorted((project / "crates").iterdir())}
    program = [code for name in ("src", "tests", "benches") for code in code_of(project / name).values()]
    counts, sections, unused = "", "", []
    for crate, files in crates.items():
        others = words_of(program + [code for other, codes in crates.items() if other != crate for code in codes.values()])
        lines, count = "", 0
        for file, code in files.items():
            items = items_of(code)
            named = [name for kind, name in items if kind not in TYPES]
            unused += [f"{file.relative_to(project)}: {name}" for name in named if name not in others]
            count += len(items)
            path = file.relative_to(project / "crates" / crate / "src").with_suffix("")
            if items:
                lines += f"- `{path}`: {', '.join(f'`{name}`' for _, name in items)}\n"
        counts += f"| [`{crate}`](#{crate}) | {count} |\n"
        sections += f"\n## {crate}\n\n{lines}"
    if unused:
        sys.exit("public, but used by no other crate (make it pub(crate)):\n" + "\n".join(unused))
    text = HEAD + counts + sections
    if sys.argv[1:] != ["--check"]:
        LIST.write_text(text)
    elif not LIST.exists() or LIST.read_text() != text:
        sys.exit("docs/public-items.md is not current: run scripts/public_items.py")


if __name__ == "__main__":
    main()

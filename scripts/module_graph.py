#!/usr/bin/env python3
"""Reads which crates and modules use which others, draws them, and fails if the uses form a cycle.

    scripts/module_graph.py            check, and write docs/images/modules.svg
    scripts/module_graph.py --check    check only, also that the committed picture is current

The crates are the program (src/) and those below crates/. A module is a file. Tests do not count. A path that leads
through a re-export counts as a use of the module that defines the item.
"""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PICTURE = PROJECT / "docs/images/modules.svg"
TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(?P<hashes>\#*)".*?"(?P=hashes)|b?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^\\'\n])'""",
    re.DOTALL | re.VERBOSE,
)
TESTS = re.compile(r"#\[cfg\(test\)\]")
USE = re.compile(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
INLINE = re.compile(r"\bmod\s+\w+\s*\{")
PATH = re.compile(r"(?<![\w:.])(?:::)?(\w+(?:::\w+)+)")

# The characters of a line of modules in the drawing.
WIDTH = 110
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="10">
<title>Crates and modules</title>
<style>rect{{fill:#f7f7f4;stroke:#888}}path{{fill:none;stroke:#7a8ca8}}text{{fill:#222}}.r{{font-weight:bold;font-size:13px}}</style>
<marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 1L7 4L0 7z" style="fill:#7a8ca8"/></marker>
<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>
<text x="16" y="20">{title}</text>
"""


# Reading


def without_texts(source):
    """Returns Rust code without comments and literals; a literal that is a path (of an attribute) stays as code."""

    def replacement(found):
        text = found.group()
        return f" {text[1:-1]} " if re.fullmatch(r'"\w+(::\w+)+"', text) else '""' if text[-1] in "\"'" else " "

    return TOKEN.sub(replacement, source)


def end_of_item(code, start):
    """Returns the position behind the item at `start`: behind its block, or behind its semicolon."""
    depth = 0
    for position in range(start, len(code)):
        character = code[position]
        depth += (character in "{([") - (character in "})]")
        if depth == 0 and (character == "}" or character == ";"):
            return position + 1
    return len(code)


def without_tests(code):
    """Returns code without the items under `#[cfg(test)]`, and the names of test modules in separate files."""
    files = []
    while found := TESTS.search(code):
        end = end_of_item(code, found.end())
        files += re.findall(r"\bmod\s+(\w+)\s*;", code[found.end() : end])
        code = code[: found.start()] + code[end:]
    return code, files


def expanded(tree):
    """Returns the (path, name in this module) of each leaf of a use tree."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path, _, alias = (part.strip() for part in tree.partition(" as "))
        return [(path.split("::"), alias or path.split("::")[-1])]
    leaves, start, depth = [], brace + 1, 0
    for position in range(brace, len(tree)):
        character = tree[position]
        depth += (character == "{") - (character == "}")
        if (character == "," and depth == 1) or (character == "}" and depth == 0):
            if part := tree[start:position].strip():
                leaves.append(part)
            start = position + 1
    outer = [name for name in tree[:brace].strip().split("::") if name]
    found = []
    for path, alias in (leaf for part in leaves for leaf in expanded(part)):
        path = outer + path
        if path[-1] == "self":
            path = path[:-1]
            alias = path[-1] if alias == "self" else alias
        found.append((path, alias))
    return found


def crates_of(project):
    """Returns the directory of the sources of each crate, by the name that paths in the code have for it."""
    below = {f"refresh_{path.name}": path / "src" for path in sorted((project / "crates").iterdir())}
    return {"ladylinux_refresh": project / "src", **below}


def read(crate, source):
    """Returns the modules of a crate: name (a tuple that begins with the crate) -> (code, names by `use`)."""
    modules, tests = {}, set()
    for file in sorted(source.rglob("*.rs")):
        names = (crate, *file.relative_to(source).with_suffix("").parts)
        name = names[:-1] if names[-1] in ("mod", "lib") else names
        if name != (crate, "main"):
            code, in_files = without_tests(without_texts(file.read_text()))
            for block in INLINE.finditer(code):
                # A module in the file is a part of it: its `super` is this file.
                end = end_of_item(code, block.start())
                code = code[: block.start()] + code[block.start() : end].replace("super::", "self::") + code[end:]
            uses = {}
            for _, tree in USE.findall(code):
                uses.update((alias, path) for path, alias in expanded(tree))
            modules[name] = (USE.sub(";", code), uses, [path for _, tree in USE.findall(code) for path, _ in expanded(tree)])
            tests.update((*name, child) for child in in_files)
    return {name: module for name, module in modules.items() if name not in tests}


def resolve(modules, module, path, seen=()):
    """Returns the module that defines the item at a path, and the item; None for another crate or a bare module."""
    if (module, tuple(path)) in seen:
        return None
    seen = (*seen, (module, tuple(path)))
    here, rest = module, list(path)
    if rest[0] == "crate" or (rest[0],) in modules:
        here, rest = (module[0] if rest[0] == "crate" else rest[0],), rest[1:]
    elif rest[0] in ("self", "super"):
        while rest and rest[0] in ("self", "super"):
            here, rest = (here[:-1] if rest[0] == "super" else here), rest[1:]
    elif rest[0] not in modules[module][1] and (*module, rest[0]) not in modules:
        return None
    while rest:
        uses = modules[here][1]
        through = rest[0] in uses and ((*here, rest[0]) not in modules or len(rest) == 1)
        if through and uses[rest[0]] != path:
            found = resolve(modules, here, [*uses[rest[0]], *rest[1:]], seen)
            return found if found or is_ours(modules, uses[rest[0]][0]) else None
        if (*here, rest[0]) not in modules:
            return here, rest[0]
        here, rest = (*here, rest[0]), rest[1:]
    return None


def is_ours(modules, name):
    """Returns whether a path that begins with a name leads into one of the crates."""
    return name in ("crate", "self", "super") or (name,) in modules


def graph_of(modules):
    """Returns module -> used module -> names."""
    graph = {name: {} for name in modules}
    for name, (code, _, uses) in modules.items():
        for path in uses + [found.split("::") for found in PATH.findall(code)]:
            found = resolve(modules, name, path)
            if found and found[0] != name:
                graph[name].setdefault(found[0], set()).add(found[1])
    return graph


def uses_of_crates(graph):
    """Returns the same graph for crates; its names are the ties between the files."""
    crates = {name[:1]: {} for name in graph}
    for name, used in graph.items():
        for other, names in used.items():
            if other[:1] != name[:1]:
                ties = crates[name[:1]].setdefault(other[:1], set())
                ties.add(f"{file_of(name)} -> {file_of(other)}: {', '.join(sorted(names))}")
    return crates


def file_of(name):
    return "::".join(name)


# Cycles and floors


def reachable(graph, start):
    """Returns the nodes that can be reached from a node over at least one edge."""
    found, waiting = set(), [start]
    while waiting:
        for name in graph[waiting.pop()]:
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def cycles_of(graph):
    """Returns the sets of nodes that reach each other, each with more than one node."""
    below = {name: reachable(graph, name) for name in graph}
    cycles = {frozenset(other for other in below[name] if name in below[other]) for name in graph if name in below[name]}
    return sorted((sorted(cycle) for cycle in cycles), key=len, reverse=True)


def floors_of(graph):
    """Returns the floor of each node of a graph without cycles: 0 for a node that uses no other."""
    floors = {}

    def floor(name):
        if name not in floors:
            floors[name] = max((floor(other) + 1 for other in graph[name]), default=0)
        return floors[name]

    for name in graph:
        floor(name)
    return floors


def describe(kind, graph):
    """Returns the lines that name the edges of each cycle."""
    lines = []
    for cycle in cycles_of(graph):
        lines.append(f"cycle of {len(cycle)} {kind}:")
        for name in cycle:
            for other in (other for other in sorted(graph[name]) if other in cycle):
                lines.append(f"    {file_of(name)} -> {file_of(other)}: {'; '.join(sorted(graph[name][other]))}")
    return lines


# Drawing


def direct(graph):
    """Returns the edges that no longer way replaces."""
    below = {name: reachable(graph, name) for name in graph}
    return [
        (name, other)
        for name, used in graph.items()
        for other in used
        if not any(other in below[between] for between in used if between not in (name, other))
    ]


def lines_of(crate, graph):
    """Returns the lines of a crate: its modules from the top floor down, without the name of the crate."""
    inside = {name: {other for other in used if other[:1] == crate} for name, used in graph.items() if name[:1] == crate}
    if len(inside) == 1:
        return []
    floors = floors_of(inside)
    lines = []
    for floor in sorted(set(floors.values()), reverse=True):
        line = ""
        for name in sorted(name for name in floors if floors[name] == floor):
            word = "::".join(name[1:]) or "lib"
            if line and len(line) + len(word) + 2 > WIDTH:
                lines.append(line + ",")
                line = ""
            line += f", {word}" if line else word
        lines.append(line)
    return lines


def picture_of(crates, graph):
    """Returns the drawing: crates on floors, arrows from a crate to those that it uses directly."""
    floors = floors_of(crates)
    boxes, y, width = {}, 34, 0
    rows = [[name for name in sorted(crates) if floors[name] == floor] for floor in range(max(floors.values()), -1, -1)]
    for row in rows:
        x, height = 16, 0
        for name in row:
            lines = lines_of(name, graph)
            wide = max(90, 16 + max(5.5 * max(map(len, lines), default=0), 8.2 * len(file_of(name))))
            boxes[name] = (x, y, wide, 24 + 12 * len(lines), lines)
            x, height = x + wide + 24, max(height, 24 + 12 * len(lines))
        width, y = max(width, x), y + height + 34
    for row in rows:
        shift = (width - sum(boxes[name][2] + 24 for name in row) - 8) / 2
        for name in row:
            boxes[name] = (boxes[name][0] + shift, *boxes[name][1:])
    drawn = []
    for name, other in sorted(direct(crates)):
        (x, y1, wide, high, _), (to_x, to_y, to_wide, _, _) = boxes[name], boxes[other]
        x, y1, to_x, to_y = x + wide / 2, y1 + high, to_x + to_wide / 2, to_y - 3
        curve = f"M{x:.0f} {y1:.0f}C{x:.0f} {(y1 + to_y) / 2:.0f} {to_x:.0f} {(y1 + to_y) / 2:.0f} {to_x:.0f} {to_y:.0f}"
        drawn.append(f'<path d="{curve}" marker-end="url(#a)"/>')
    for name, (x, y1, wide, high, lines) in sorted(boxes.items()):
        drawn.append(f'<rect x="{x:.0f}" y="{y1:.0f}" width="{wide:.0f}" height="{high:.0f}" rx="4"/>')
        drawn.append(f'<text x="{x + 8:.0f}" y="{y1 + 16:.0f}" class="r">{file_of(name)}</text>')
        for number, line in enumerate(lines):
            drawn.append(f'<text x="{x + 8:.0f}" y="{y1 + 30 + 12 * number:.0f}">{line}</text>')
    title = "Crates and their modules; each uses only crates and modules below it. Arrows that a longer way replaces are left out."
    return HEAD.format(width=width, height=y - 20, title=title) + "\n".join(drawn) + "\n</svg>\n"


def main():
    modules = {}
    for crate, source in crates_of(PROJECT).items():
        modules.update(read(crate, source))
    graph = graph_of(modules)
    crates = uses_of_crates(graph)
    if lines := describe("crates", crates) or describe("modules", graph):
        sys.exit("\n".join(lines))
    picture = picture_of(crates, graph)
    if sys.argv[1:] != ["--check"]:
        PICTURE.write_text(picture)
    elif not PICTURE.exists() or PICTURE.read_text() != picture:
        sys.exit("docs/images/modules.svg is not current: run scripts/module_graph.py")


if __name__ == "__main__":
    main()

"""Builds the full-text index of all notes."""

import json
import sys

from notebook import database, paths, search


def main() -> int:
    notes = database.notes_after(0)
    index = search.build(notes)
    paths.replace(paths.search_index(), json.dumps(index, ensure_ascii=False).encode("utf-8"))
    print(f"indexed {len(index['words'])} words of {len(notes)} notes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

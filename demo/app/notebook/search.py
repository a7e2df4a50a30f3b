"""A small full-text index: the words of each note.

The index hook writes it at each refresh; later notes are read directly, so a search never misses one.
"""

import json
import re
from typing import Dict, List

from notebook import database, paths

WORD = re.compile(r"\w+")


def words(text: str) -> List[str]:
    """Returns the distinct words of a text, in lower case and in order."""
    return sorted({word.lower() for word in WORD.findall(text)})


def build(notes: List[dict]) -> dict:
    """Makes the index of these notes."""
    index: Dict[str, List[int]] = {}
    for note in notes:
        for word in words(note["text"]):
            index.setdefault(word, []).append(note["id"])
    return {"last_note": max((note["id"] for note in notes), default=0), "words": index}


def load() -> dict:
    """Reads the index; if none exists yet, returns an empty one without notes."""
    try:
        return json.loads(paths.search_index().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return build([])


def find(query: str) -> List[dict]:
    """Returns the notes that contain every word of the query, newest first."""
    wanted = words(query)
    if not wanted:
        return []
    index = load()
    indexed = set.intersection(*(set(index["words"].get(word, ())) for word in wanted))
    later = [
        note["id"]
        for note in database.notes_after(index["last_note"])
        if set(wanted) <= set(words(note["text"]))
    ]
    return database.notes_by_id(sorted(indexed) + later)

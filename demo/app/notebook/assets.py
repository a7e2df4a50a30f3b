"""The stylesheet: made of its parts, named by its content."""

import hashlib
import json
import re
from pathlib import Path
from typing import Optional

from notebook import paths

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
SPACE = re.compile(r"\s+")


def compile_stylesheet() -> bytes:
    """Joins the parts in the order of their names, without comments and needless space."""
    parts = (path.read_text(encoding="utf-8") for path in sorted(paths.ASSET_SOURCES.glob("*.css")))
    text = SPACE.sub(" ", COMMENT.sub("", "\n".join(parts))).strip()
    return (text + "\n").encode("utf-8")


def publish() -> str:
    """Writes the stylesheet, then the note that names it, removes the older ones, and returns its name."""
    content = compile_stylesheet()
    name = f"app.{hashlib.sha256(content).hexdigest()[:12]}.css"
    directory = paths.compiled_assets()
    paths.replace(directory / name, content)
    paths.replace(directory / "current.json", json.dumps({"stylesheet": name}).encode("utf-8"))
    for older in directory.glob("app.*.css"):
        if older.name != name:
            older.unlink()
    return name


def stylesheet() -> Optional[str]:
    """Returns the name of the current stylesheet, if there is one."""
    try:
        return json.loads((paths.compiled_assets() / "current.json").read_text(encoding="utf-8"))["stylesheet"]
    except FileNotFoundError:
        return None


def find(name: str) -> Optional[Path]:
    """Returns the path of the current stylesheet, if ``name`` is its name."""
    return paths.compiled_assets() / name if name == stylesheet() else None

"""The paths of the application. State is never kept in the source tree, which a refresh replaces."""

import os
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
MIGRATIONS = SOURCE / "migrations"
ASSET_SOURCES = SOURCE / "assets"
TEMPLATES = SOURCE / "templates"
MANIFEST = SOURCE / "models" / "manifest.json"


def data() -> Path:
    """Returns the directory of persistent data."""
    return Path(os.environ.get("LADYLINUX_DATA") or "/var/lib/ladylinux/data")


def cache() -> Path:
    """Returns the directory of files that can be made again; by default it is beside the data."""
    chosen = os.environ.get("LADYLINUX_CACHE")
    return Path(chosen) if chosen else data().parent / "cache"


def database() -> Path:
    """Returns the file that contains the notes."""
    return data() / "notes.sqlite3"


def search_index() -> Path:
    """Returns the file that the index hook writes."""
    return cache() / "search.json"


def compiled_assets() -> Path:
    """Returns the directory that the assets hook fills."""
    return cache() / "static"


def replace(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)

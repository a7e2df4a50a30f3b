"""The front page."""

from datetime import datetime, timezone
from html import escape
from string import Template
from typing import List

import humanize

from notebook import assets, paths


def render(version: dict, schema_version: int, notes: List[dict]) -> str:
    """Fills the template; every value from outside is escaped."""
    template = Template((paths.TEMPLATES / "page.html").read_text(encoding="utf-8"))
    items = "\n".join(
        f"<li><time>{escape(age(note['created_at']))}</time> {escape(note['text'])}</li>" for note in notes
    )
    return template.substitute(
        stylesheet=escape(assets.stylesheet() or "none.css"),
        commit=escape((version["commit"] or "unknown")[:10]),
        branch=escape(version["branch"] or "unknown"),
        refreshed=escape(version["refreshed_at"] or "never"),
        schema=schema_version,
        notes=items,
    )


def age(created_at: str) -> str:
    """Returns the age of a note, in words for people."""
    written = datetime.strptime(created_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    return humanize.naturaltime(datetime.now(timezone.utc) - written)

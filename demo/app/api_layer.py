"""The web service of LadyLinux Notes.

``uvicorn api_layer:app`` serves it. Importing this module reads only its own source, so a check can
import it on a machine where neither database nor assets exist yet.
"""

import time
from typing import List, Optional

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import BaseModel, Field

from notebook import assets, database, page, search, version

STARTED = time.monotonic()

app = FastAPI(title="LadyLinux Notes", docs_url=None, redoc_url=None)


class NewNote(BaseModel):
    """A note as a client sends it."""

    text: str = Field(min_length=1, max_length=2000)


class Note(NewNote):
    """A note as it is stored."""

    id: int
    created_at: str


@app.get("/", response_class=HTMLResponse)
def front_page() -> str:
    """Shows the deployed version and the newest notes."""
    return page.render(version.deployed(), database.schema_version(), database.newest_notes(20))


@app.get("/api/status")
def status() -> dict:
    """Returns the deployed version, for people, scripts and the health check of a refresh."""
    return {
        "ok": True,
        **version.deployed(),
        "schema_version": database.schema_version(),
        "uptime_seconds": round(time.monotonic() - STARTED, 3),
    }


@app.get("/api/notes", response_model=List[Note])
def notes(q: Optional[str] = None) -> list:
    """Lists the newest notes, or those that contain every word of ``q``."""
    return search.find(q) if q else database.newest_notes(50)


@app.post("/api/notes", response_model=Note, status_code=201)
def add_note(note: NewNote) -> dict:
    """Keeps a note."""
    return database.add_note(note.text)


@app.get("/static/{name}")
def static_file(name: str) -> FileResponse:
    """Serves a compiled asset; its name contains its fingerprint, so it may be cached forever."""
    path = assets.find(name)
    if path is None:
        raise HTTPException(status_code=404, detail="no such asset")
    return FileResponse(path, headers={"Cache-Control": "public, max-age=31536000, immutable"})

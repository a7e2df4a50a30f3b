"""The notes in SQLite, and the numbered migrations that define its schema."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import List, Tuple

from notebook import paths

MIGRATION_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


def connect() -> sqlite3.Connection:
    """Opens the database; the callers begin and end transactions."""
    paths.data().mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(str(paths.database()), timeout=5, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def migrations() -> List[Tuple[int, Path]]:
    """Lists the migrations in their order; a gap or a duplicate number is an error."""
    found = []
    for path in sorted(paths.MIGRATIONS.glob("*.sql")):
        match = MIGRATION_NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"migrations/{path.name} is not named like 0001_words.sql")
        found.append((int(match.group(1)), path))
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise ValueError("the migrations are not numbered 1, 2, 3 … without gaps")
    return found


def version_of(connection: sqlite3.Connection) -> int:
    """Returns the number of the last migration that was applied; 0 for an empty database."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone():
        return 0
    return connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()[0]


def apply(connection: sqlite3.Connection, number: int, script: str) -> None:
    """Applies one migration completely, together with its number, or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements(script):
            connection.execute(statement)
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO schema_version (version) VALUES (?)", (number,))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def statements(script: str) -> List[str]:
    """Splits a script at the semicolons that end a statement."""
    found, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current.strip())
            current = ""
    if current.strip():
        raise ValueError("the last statement has no semicolon")
    return found


def schema_version() -> int:
    """Returns the version of the database schema."""
    with closing(connect()) as connection:
        return version_of(connection)


def newest_notes(count: int) -> List[dict]:
    """Returns the newest notes, newest first."""
    with closing(connect()) as connection:
        rows = connection.execute("SELECT * FROM notes ORDER BY id DESC LIMIT ?", (count,))
        return [dict(row) for row in rows]


def notes_after(last: int) -> List[dict]:
    """Returns the notes with a number above ``last``, oldest first."""
    with closing(connect()) as connection:
        return [dict(row) for row in connection.execute("SELECT * FROM notes WHERE id > ? ORDER BY id", (last,))]


def notes_by_id(numbers: List[int]) -> List[dict]:
    """Returns the notes with these numbers, newest first."""
    marks = ",".join("?" * len(numbers))
    with closing(connect()) as connection:
        rows = connection.execute(f"SELECT * FROM notes WHERE id IN ({marks}) ORDER BY id DESC", numbers)
        return [dict(row) for row in rows]


def add_note(text: str) -> dict:
    """Keeps a note and returns it as stored."""
    with closing(connect()) as connection:
        number = connection.execute("INSERT INTO notes (text) VALUES (?)", (text,)).lastrowid
        return dict(connection.execute("SELECT * FROM notes WHERE id = ?", (number,)).fetchone())

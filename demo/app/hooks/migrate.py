"""Brings the database to the schema that this version of the source expects."""

import sqlite3
import sys
from contextlib import closing

from notebook import database


def main() -> int:
    known = database.migrations()
    with closing(database.connect()) as connection:
        before = database.version_of(connection)
        if before > len(known):
            # Older source: migrations only add, so it can read the newer schema.
            print(f"the database is at version {before}, this source knows {len(known)}: left as it is")
            return 0
        for number, path in known[before:]:
            try:
                database.apply(connection, number, path.read_text(encoding="utf-8"))
            except (sqlite3.Error, ValueError) as error:
                print(f"migrations/{path.name} failed: {error}", file=sys.stderr)
                print(f"the database stays at version {number - 1}; nothing of it was applied", file=sys.stderr)
                return 1
            print(f"applied {path.name}")
    print(f"the database is at version {len(known)} (it was at {before})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

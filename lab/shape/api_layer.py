"""The application in the real shape."""

import json
import os
import pathlib
import subprocess
import sys

import fastapi

import edition

HERE = pathlib.Path(__file__).parent
STATE = pathlib.Path("/var/lib/ladylinux")
SETTINGS = pathlib.Path("/etc/ladylinux/ladylinux.env")

for name in ("qdrant", "rag_ingest", "obsidian_user"):
    (STATE / name).mkdir(exist_ok=True)
(STATE / "qdrant" / "started").write_text(edition.EDITION)

(HERE / "config").mkdir(exist_ok=True)
(HERE / "config" / "prefs.json").write_text(json.dumps({"theme": "dark", "edition": edition.EDITION}))

# As when it gets a new OAuth token.
token = f"OAUTH_TOKEN={edition.EDITION}\n"
lines = [line for line in SETTINGS.read_text().splitlines(keepends=True) if not line.startswith("OAUTH_TOKEN=")]
with open(SETTINGS.with_suffix(".new"), "w", opener=lambda path, flags: os.open(path, flags, 0o640)) as new:
    new.write("".join(lines) + token)
os.replace(SETTINGS.with_suffix(".new"), SETTINGS)

# With KillMode=process this outlives a stop of the unit.
subprocess.Popen([sys.executable, str(HERE / "worker.py"), "child"], start_new_session=True)

app = fastapi.FastAPI()


@app.get("/api/status")
def status():
    return {"edition": edition.EDITION, "commit": os.environ.get("LADYLINUX_COMMIT")}

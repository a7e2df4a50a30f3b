"""The version that runs, from the variables of the refresh."""

import os


def deployed() -> dict:
    """Returns commit, branch, environment and time of the refresh; ``None`` for a missing variable."""
    return {
        name: os.environ.get(f"LADYLINUX_{name.upper()}") or None
        for name in ("commit", "branch", "environment", "refreshed_at")
    }

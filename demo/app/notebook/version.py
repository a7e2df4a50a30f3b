"""Which version runs: told by the refresh through the environment."""

import os


def deployed() -> dict:
    """Returns commit, branch, generation and time of the refresh; ``None`` for what nobody told."""
    return {
        name: os.environ.get(f"LADYLINUX_{name.upper()}") or None
        for name in ("commit", "branch", "generation", "refreshed_at")
    }

"""The files of a stored network by name, and their digests; imports no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

RECIPE, SAFE_STATE = "recipe.json", "state.safetensors"  # how to build a stored network, and its state


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

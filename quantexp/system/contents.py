"""Digests of files, by which their content counts in place of their path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the names and contents of the files that there are, in hex. Raises OSError."""
    sha = hashlib.sha256()
    for path in sorted(paths):
        if path.is_file():
            with path.open("rb") as file:
                sha.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return sha.hexdigest()

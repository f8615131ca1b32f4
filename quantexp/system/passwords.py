"""Passwords are neither shown nor recorded."""

from __future__ import annotations

import re
from typing import Any


def without_password(value: Any) -> Any:
    """Return text with the password of any address in it replaced by stars; other values as they are."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", value) if isinstance(value, str) else value

"""Passwords are removed from what is shown or recorded."""

from __future__ import annotations

import re
from typing import Any


def without_password(value: Any) -> Any:
    """Return text with the passwords of its addresses replaced by stars; other values are returned unchanged."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", value) if isinstance(value, str) else value

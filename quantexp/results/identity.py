"""What a result depends on: configuration, data, versions, machine. Its digest says which runs are the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """What a result depends on. Of two runs with equal digests one is enough.

    `configuration` has an entry for each option, with its class's name among its settings, and one for each
    plain value; `threads` are those of training and of measuring.
    """

    configuration: dict[str, Any]
    data_fingerprint: str
    versions: dict[str, str]
    host: str
    cpu: str
    threads: dict[str, int]

    @classmethod
    def from_json(cls, text: bytes | str) -> Identity:
        """Read what `to_json` wrote. Raises ValueError."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_json(text)

    def to_json(self) -> str:
        """Return the identity as JSON, the same text for the same identity."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

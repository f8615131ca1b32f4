"""What a result depends on: configuration, data, versions, machine. Runs with the same digest are the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """What a result depends on. Two runs with equal digests are repetitions of one run.

    `configuration` has an entry for each option, whose settings include the name of its class, and one for each
    plain value; `threads` has the counts for training and for measuring.
    """

    configuration: dict[str, Any]
    data_fingerprint: str
    versions: dict[str, str]
    host: str
    cpu: str
    threads: dict[str, int]

    @classmethod
    def from_json(cls, text: bytes | str) -> Identity:
        """Read the JSON that `to_json` wrote. Raises ValueError."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_json(text)

    def to_json(self) -> str:
        """Return the identity as JSON, the same text for the same identity."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

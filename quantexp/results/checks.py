"""What the self-checks of a run found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding that does not end the run: the name of the check that found it, and a sentence.

    `check` is one of "data", "stored", "traced", "kernels", "macs", "repeated" and "weights".
    """

    check: str
    text: str

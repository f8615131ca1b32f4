"""What a study of compatibility tried, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

COMPATIBILITY_FILE = "compatibility.json"  # the name of a report as a file


class Word(StrEnum):
    """The outcome of a row in a word.

    Refused: the method cannot quantize the network, with a reason. Wrong: it can, but a self-check failed. Crashed: the
    process ended, by a signal, for its memory, or with an internal error.
    """

    works = "works"
    refused = "refused"
    wrong = "wrong"
    crashed = "crashed"
    timeout = "timeout"


@dataclass(frozen=True, slots=True)
class Cell:
    """A way to quantize and to execute: a method by its name, its flow, precision and engine, and the runtime.

    Flow and engine are None where there is no choice.
    """

    method: str
    flow: str | None
    precision: str
    engine: str | None
    runtime: str = "eager"

    def __str__(self) -> str:
        quantized = " ".join(part for part in (self.method, self.flow, self.precision, self.engine) if part)
        return quantized if self.runtime == "eager" else f"{quantized} in {self.runtime}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a cell.

    `reason` says why it does not work, `check` names the self-check that failed. `mac_share` is the share of the
    multiply-accumulates that ran in the precision of the cell, None where it is not known; `output_sqnr_db` compares
    the outputs with those of the float network, None if they are equal. `weights` says which weights the float network
    had: "random", "trained", or "checkpoint"; `key` identifies them. `examples` counts the training examples.
    """

    word: Word
    reason: str = ""
    check: str | None = None
    mac_share: float | None = None
    size_mb: float | None = None
    output_sqnr_db: float | None = None
    findings: tuple[str, ...] = ()
    seconds: float = 0.0
    weights: str | None = None
    key: str | None = None
    examples: int | None = None

    @property
    def works(self) -> bool:
        """Whether the network was quantized and passed all self-checks."""
        return self.word is Word.works


@dataclass(frozen=True, slots=True)
class Row:
    """A cell with its outcome."""

    cell: Cell
    outcome: Outcome


def parse_outcome(values: Any) -> Outcome:
    """Return the outcome of plain values. Raises ValueError, which includes pydantic.ValidationError."""
    from pydantic import TypeAdapter

    return TypeAdapter(Outcome).validate_python(values)


@dataclass(frozen=True, slots=True)
class CompatibilityReport:
    """What works for a network: every row that was tried.

    `network` names task and network, `command` runs the best row alone, None if nothing works.
    """

    network: str
    source: str
    rows: tuple[Row, ...]
    best: Cell | None
    command: str | None

    def to_json(self) -> str:
        """Return the report as JSON, which `parse_compatibility` reads back."""
        from pydantic import TypeAdapter

        return TypeAdapter(CompatibilityReport).dump_json(self, indent=1).decode()


def parse_compatibility(content: bytes) -> CompatibilityReport:
    """Read a report that `to_json` wrote. Raises ValueError, which includes pydantic.ValidationError."""
    from pydantic import TypeAdapter

    return TypeAdapter(CompatibilityReport).validate_json(content)

"""Whether a run and its repetition agree: quality, closeness and size to the last digit, speedups closely.

Latencies and seconds are the machine's at the moment and are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantexp.results import Measured, Report, Speedup

CLOSE = 0.05  # two measurements of one speedup agree if they differ by less, or if their intervals overlap


@dataclass(frozen=True, slots=True)
class Exact:
    """A figure that must be the same in both runs. `unit` is "share", "dB" or "bytes"."""

    name: str
    unit: str
    before: float
    after: float

    @property
    def agrees(self) -> bool:
        """Whether both are the same."""
        return self.before == self.after


@dataclass(frozen=True, slots=True)
class Timed:
    """A speedup that must be close in both runs."""

    before: Speedup
    after: Speedup

    @property
    def change(self) -> float:
        """How much greater the second one is, as a share of the first."""
        return self.after.ratio / self.before.ratio - 1

    @property
    def close(self) -> bool:
        """Whether they differ by less than CLOSE."""
        return abs(self.change) <= CLOSE

    @property
    def agrees(self) -> bool:
        """Whether they are close, or their intervals overlap."""
        ends = (self.before.low, self.before.high, self.after.low, self.after.high)
        low, high, other_low, other_high = ends
        if self.close or low is None or high is None or other_low is None or other_high is None:
            return self.close
        return max(low, other_low) <= min(high, other_high)


def exact_figures(before: Report, after: Report) -> Iterator[Exact]:
    """Yield what must be the same to the last digit."""
    models = ("float", before.baseline, after.baseline), (before.quant, before.quantized, after.quantized)
    for name, old, new in models:
        if old is not None and new is not None:
            yield from _of_model(f"{name} {old.precision}", old, new)
    first, second = before.comparison, after.comparison
    if first and second and first.quality is None:
        yield Exact("Agreement", "share", first.agreement, second.agreement)
        if first.output_sqnr_db is not None and second.output_sqnr_db is not None:
            yield Exact("Output SQNR", "dB", first.output_sqnr_db, second.output_sqnr_db)


def _of_model(label: str, old: Measured, new: Measured) -> Iterator[Exact]:
    if old.quality and new.quality:
        name = f"{old.quality.name.capitalize()}, {label}"
        yield Exact(name, "share", old.quality.value, new.quality.value)
    yield Exact(f"Size, {label}", "bytes", old.size.state_bytes, new.size.state_bytes)


def timed_figures(before: Report, after: Report) -> Iterator[Timed]:
    """Yield the speedups of both runs."""
    if before.comparison and after.comparison:
        pairs = zip(before.comparison.speedups, after.comparison.speedups, strict=True)
        yield from (Timed(old, new) for old, new in pairs)

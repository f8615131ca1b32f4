"""A run and its re-run side by side, with a verdict."""

from __future__ import annotations

from collections.abc import Iterator

from quantexp.analysis.repetition import CLOSE, overlap, relative_change
from quantexp.reports.cells import interval_text
from quantexp.reports.table import Table
from quantexp.results import Comparison, Measured, Report, Speedup

Row = tuple[str, str, str, str]


def side_by_side(then: Report, now: Report, *, elsewhere: bool) -> tuple[Table, bool]:
    """Return both reports side by side, and whether they agree: quality, size and FLOPs exactly, speedups
    closely.

    Latencies and seconds vary with the state of the machine and are not judged. `elsewhere` says that machine or
    versions have changed, which may explain a difference but does not excuse it.
    """
    rows: list[Row] = []
    if then.flops is not None and now.flops is not None:
        rows.append(_exact("FLOPs", then.flops, now.flops, ","))
    for name, old, new in (("float", then.baseline, now.baseline), (then.quant, then.quantized, now.quantized)):
        if old and new:
            rows += _of_model(f"{name} {old.precision}", old, new)
    if then.comparison and now.comparison:
        rows += _of_comparison(then.comparison, now.comparison)
    wrong = [row[0] for row in rows if row[3].startswith("differs")]
    verdict = f"Not reproduced: {', '.join(wrong)}." if wrong else "Reproduced."
    if wrong and elsewhere:
        verdict += " Machine or versions changed since the original run, which may be the reason."
    return Table(("", "original", "re-run", ""), tuple(rows), (verdict,)), not wrong


def _of_model(label: str, old: Measured, new: Measured) -> Iterator[Row]:
    if old.quality and new.quality:
        yield _exact(f"{old.quality.name.capitalize()}, {label}", old.quality.value, new.quality.value, ".6f")
    yield _exact(f"Size (bytes), {label}", old.size.state_bytes, new.size.state_bytes, ",")
    for latency, again in zip(old.latency, new.latency, strict=True):
        yield f"Latency B{latency.batch_size} (ms), {label}", f"{latency.median_ms:.3f}", f"{again.median_ms:.3f}", ""


def _of_comparison(old: Comparison, new: Comparison) -> Iterator[Row]:
    if old.quality is None:
        yield _exact("Agreement", old.agreement, new.agreement, ".6f")
        if old.output_sqnr_db is not None and new.output_sqnr_db is not None:
            yield _exact("Output SQNR (dB)", old.output_sqnr_db, new.output_sqnr_db, ".3f")
    for speedup, again in zip(old.speedups, new.speedups, strict=True):
        yield f"Speedup B{speedup.batch_size}", interval_text(speedup), interval_text(again), _close(speedup, again)


def _exact(name: str, old: float, new: float, digits: str) -> Row:
    verdict = "equal" if old == new else f"differs by {new - old:+g}"
    return name, f"{old:{digits}}", f"{new:{digits}}", verdict


def _close(old: Speedup, new: Speedup) -> str:
    change = relative_change(old, new)
    if abs(change) <= CLOSE:
        return f"within {CLOSE:.0%} ({change:+.1%})"
    return f"within the intervals ({change:+.1%})" if overlap(old, new) else f"differs by {change:+.1%}"

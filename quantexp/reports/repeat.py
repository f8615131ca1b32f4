"""A run and its repetition side by side, with a verdict."""

from __future__ import annotations

from collections.abc import Iterator

from quantexp.reports.table import Table
from quantexp.results import Report, Speedup

CLOSE = 0.05  # two measurements of one speedup agree if they differ by less, or if their intervals overlap


def side_by_side(then: Report, now: Report, *, elsewhere: bool) -> tuple[Table, bool]:
    """Return both reports side by side, and whether they are the same: accuracy to the last digit, speedup closely.

    Latencies and seconds are the machine's at the moment and are not judged. `elsewhere` says that machine or
    versions are not those of then, which explains a difference and does not excuse it.
    """
    rows = list(_rows(then, now))
    wrong = [row[0] for row in rows if row[3].startswith("differs")]
    verdict = f"Not reproduced: {', '.join(wrong)}." if wrong else "Reproduced."
    if wrong and elsewhere:
        verdict += " Machine or versions are not as then, which may be why."
    return Table(("", "then", "now", ""), tuple(rows), (verdict,)), not wrong


def _rows(then: Report, now: Report) -> Iterator[tuple[str, str, str, str]]:
    for name, old, new in (("float", then.baseline, now.baseline), (then.quant, then.quantized, now.quantized)):
        if old is None or new is None:
            continue
        label = f"{name} {old.precision}"
        right, right_now = old.accuracy.value, new.accuracy.value
        yield f"Accuracy, {label}", f"{right:.6f}", f"{right_now:.6f}", _equal(right, right_now)
        size, size_now = old.size.state_bytes, new.size.state_bytes
        yield f"Size (bytes), {label}", f"{size:,}", f"{size_now:,}", _equal(size, size_now)
        for one, now_one in zip(old.latency, new.latency, strict=True):
            yield f"Latency B{one.batch_size} (ms), {label}", f"{one.median_ms:.3f}", f"{now_one.median_ms:.3f}", ""
    if then.comparison and now.comparison:
        for first, second in zip(then.comparison.speedups, now.comparison.speedups, strict=True):
            yield f"Speedup B{first.batch_size}", _speedup(first), _speedup(second), _close(first, second)


def _equal(old: float, new: float) -> str:
    return "the same" if old == new else f"differs by {new - old:+g}"


def _close(old: Speedup, new: Speedup) -> str:
    change = new.ratio / old.ratio - 1
    if abs(change) <= CLOSE:
        return f"within {CLOSE:.0%} ({change:+.1%})"
    known = None not in (old.low, old.high, new.low, new.high)
    if known and max(old.low or 0, new.low or 0) <= min(old.high or 0, new.high or 0):
        return f"within the intervals ({change:+.1%})"
    return f"differs by {change:+.1%}"


def _speedup(one: Speedup) -> str:
    return f"{one.ratio:.2f}x" + ("" if one.low is None else f" [{one.low:.2f}, {one.high:.2f}]")

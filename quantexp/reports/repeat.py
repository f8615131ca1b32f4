"""A run and its repetition side by side, with a verdict."""

from __future__ import annotations

from collections.abc import Iterator

from quantexp.analysis.repetition import CLOSE, Exact, Timed, exact_figures, timed_figures
from quantexp.reports.table import Table
from quantexp.results import Report, Speedup

FORMATS = {"share": ".6f", "dB": ".3f", "bytes": ",.0f"}


def side_by_side(then: Report, now: Report, *, elsewhere: bool) -> tuple[Table, bool]:
    """Return both reports side by side, and whether they agree.

    `elsewhere` says that machine or versions are not those of then, which explains a difference and does not excuse it.
    """
    exact, timed = list(exact_figures(then, now)), list(timed_figures(then, now))
    rows = (*map(_exact_row, exact), *_latency_rows(then, now), *map(_timed_row, timed))
    wrong = [figure.name for figure in exact if not figure.agrees]
    wrong += [f"Speedup B{figure.before.batch_size}" for figure in timed if not figure.agrees]
    verdict = f"Not reproduced: {', '.join(wrong)}." if wrong else "Reproduced."
    if wrong and elsewhere:
        verdict += " Machine or versions are not as then, which may be why."
    return Table(("", "then", "now", ""), rows, (verdict,)), not wrong


def _exact_row(figure: Exact) -> tuple[str, str, str, str]:
    texts = (f"{value:{FORMATS[figure.unit]}}" for value in (figure.before, figure.after))
    unit = "" if figure.unit == "share" else f" ({figure.unit})"
    before, after = texts
    verdict = "the same" if figure.agrees else f"differs by {figure.after - figure.before:+g}"
    return f"{figure.name}{unit}", before, after, verdict


def _latency_rows(then: Report, now: Report) -> Iterator[tuple[str, str, str, str]]:
    for name, old, new in (("float", then.baseline, now.baseline), (then.quant, then.quantized, now.quantized)):
        if old and new:
            for latency, again in zip(old.latency, new.latency, strict=True):
                label = f"Latency B{latency.batch_size} (ms), {name} {old.precision}"
                yield label, f"{latency.median_ms:.3f}", f"{again.median_ms:.3f}", ""


def _timed_row(figure: Timed) -> tuple[str, str, str, str]:
    change = f"{figure.change:+.1%}"
    verdict = f"within the intervals ({change})" if figure.agrees else f"differs by {change}"
    if figure.close:
        verdict = f"within {CLOSE:.0%} ({change})"
    return f"Speedup B{figure.before.batch_size}", _speedup(figure.before), _speedup(figure.after), verdict


def _speedup(speedup: Speedup) -> str:
    return f"{speedup.ratio:.2f}x" + ("" if speedup.low is None else f" [{speedup.low:.2f}, {speedup.high:.2f}]")

"""Pictures of a run's latencies by batch size, and of the paired ratios by placement.

A colour stands for one role in every picture: grey for the float network, blue for it in another runtime, red for the
quantized one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quantexp.reports.run_page import quantized_name, run_page
from quantexp.reports.style import (
    COMPILED,
    FLOAT,
    FOOT,
    HEAD,
    INK,
    LARGE,
    QUANTIZED,
    SMALL,
    WIDTH,
    Role,
    round_ticks,
)
from quantexp.results import Latency, Report, Speedup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROW = 4  # times the smallest batch size: up to there both axes of two sizes are linear
ROOM = 1.05  # inches that a speedup takes; of sizes that lie closer one has none written
BAND = "#D9D9D9"
OTHERS = (COMPILED, Role("#009E73", "^", "--"), Role("#CC79A7", "v", "--"), Role("#E69F00", "P", "--"))  # runtimes


def latency_figure(report: Report) -> Figure | None:
    """Show the latencies by batch size, and at the quantized model's how many times as fast it is."""
    precision = report.baseline.precision
    models = [(precision, FLOAT, report.baseline.latency)]
    for at, other in enumerate(report.others):
        models.append((f"{precision} {other.runtime}", OTHERS[at % len(OTHERS)], other.latency))
    if report.quantized:
        models.append((quantized_name(report), QUANTIZED, report.quantized.latency))
    sizes = [one.batch_size for one in report.baseline.latency]
    if not sizes:
        return None
    speedups = report.comparison.speedups if report.comparison else ()
    note = "marker: median; whiskers: 10 % to 90 % of the samples"
    if any(one.low is not None for one in speedups):
        note += f"; x: times as fast as {precision} [95 % interval]"
    figure = run_page(
        report, f"Latency by batch size{_doubts(report)}", note, width=max(WIDTH, 2.8 + ROOM * len(sizes))
    )
    axes = figure.subplots()
    before = 1.3 if any(one.ratio < 1 for one in speedups) else 0.6  # inches; a slowdown is written ahead of its marker
    place, inch = _batch_axis(axes, sizes, figure.get_figwidth() - 1.1, before)
    curved = len(sizes) > 2 or max(sizes) > NARROW * min(sizes)
    _latency_axis(axes, [one for _, _, latencies in models for one in latencies], logarithmic=curved)
    for index, (name, role, latencies) in enumerate(models):
        apart = (0.1 if len(sizes) > 1 else 1) * inch * (index - (len(models) - 1) / 2)  # no whisker hides another
        places = [place(one.batch_size) + apart for one in latencies]
        _latencies(axes, places, latencies, name, role)
        if role is QUANTIZED:
            _write_speedups(axes, places, latencies, speedups, room=ROOM * inch)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1)
    return figure


def ratios_figure(report: Report) -> Figure | None:
    """Show the paired ratios, a row a batch size: at the left how far they are from 1, at the right close up."""
    speedups = [one for one in report.comparison.speedups if one.per_placement] if report.comparison else []
    if not speedups:
        return None
    precision = report.baseline.precision
    note = f"dots: placements, in their order; diamond and bar: estimate, 95 % interval; band: 1 ± {_margin(speedups)}"
    height = HEAD + FOOT + 0.7 + 1.5 * len(speedups)
    figure = run_page(report, f"Times as fast as {precision}, by placement{_doubts(report)}", note, height=height)
    figure.set_layout_engine("none")  # it would widen the gap between the columns to hold the titles
    inner = {"bottom": (FOOT + 0.65) / height, "top": 1 - (HEAD + 0.3) / height, "left": 0.03, "right": 0.97}
    spaces = {"wspace": 0.08, "hspace": 0.65, "width_ratios": (1, 1.8)}
    grid = figure.subplots(len(speedups), 2, squeeze=False, gridspec_kw=inner | spaces)
    reach = [value for one in speedups for value in (*one.per_placement, 1 / (1 + one.margin), 1 + one.margin)]
    for one, (whole, close) in zip(speedups, grid, strict=True):
        _ratios(whole, one, reach)
        _ratios(close, one, one.per_placement)
        whole.set_title(f"batch {one.batch_size}: {_ratio(one.ratio)}{_interval(one)}, {one.verdict}", loc="left")
    grid[-1, 0].set_xlabel(f"{precision} time / {report.precision} time")
    grid[-1, 1].set_xlabel("the same, close up")
    return figure


# Parts


def _doubts(report: Report) -> str:
    """Name the batch sizes whose latencies are not to be trusted."""
    sizes = ", ".join(str(one.batch_size) for one in report.conditions if one.unstable)
    return f" (unstable at {sizes})" if sizes else ""


def _ratio(value: float) -> str:
    return f"{value:.2f}x"


def _interval(one: Speedup) -> str:
    return "" if one.low is None or one.high is None else f" [{one.low:.2f}, {one.high:.2f}]"


def _margin(speedups: Sequence[Speedup]) -> str:
    return f"{100 * max(one.margin for one in speedups):g} %"


def _batch_axis(axes: Axes, sizes: Sequence[int], width: float, before: float) -> tuple[Callable[[int], float], float]:
    """Make the axis of the batch sizes, logarithmic, `width` inches wide with `before` inches ahead of the first.

    Returns: Where on the axis a size stands, and how much of the axis is an inch.
    """
    places = [math.log2(size) for size in sizes]
    behind = 1.3  # a speedup is written behind its marker
    span = max(places) - min(places)
    if span:
        inch = span / (width - before - behind)
    else:
        inch, before, behind = 1.0, width / 2, width / 2
    axes.set_xlim(min(places) - before * inch, max(places) + behind * inch)
    axes.set_xticks(places, [str(size) for size in sizes])
    axes.set_xlabel("batch size")
    return math.log2, inch


def _latency_axis(axes: Axes, latencies: Sequence[Latency], *, logarithmic: bool) -> None:
    """Make the axis of the milliseconds: from 0, or logarithmic with round numbers as ticks."""
    low, high = min(one.p10_ms for one in latencies), max(one.p90_ms for one in latencies)
    axes.set_ylabel("latency (ms)")
    axes.grid(axis="y")
    if not logarithmic or low <= 0:
        axes.set_ylim(0, 1.15 * high)
        return
    axes.set_yscale("log")
    ticks = round_ticks(low, high)
    top = min(tick for tick in ticks if tick > 1.05 * high)
    bottom = low / (top / low) ** 0.25  # room for what is written below the lowest marker
    shown = [tick for tick in ticks if bottom <= tick <= top]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_yticks([], minor=True)
    axes.set_ylim(bottom, top)


def _latencies(axes: Axes, places: Sequence[float], latencies: Sequence[Latency], name: str, role: Role) -> None:
    whiskers = (
        [one.median_ms - one.p10_ms for one in latencies],
        [one.p90_ms - one.median_ms for one in latencies],
    )
    look: dict[str, Any] = {"color": role.colour, "marker": role.marker, "linestyle": role.line}
    sizes: dict[str, Any] = {"markersize": 10, "linewidth": 2.5, "elinewidth": 2.5, "capsize": 7, "capthick": 2.5}
    axes.errorbar(places, [one.median_ms for one in latencies], whiskers, label=name, **look, **sizes)


def _write_speedups(
    axes: Axes, places: Sequence[float], latencies: Sequence[Latency], speedups: Sequence[Speedup], *, room: float
) -> None:
    """Write each speedup at its marker, on the side away from the float model's."""
    last = -math.inf
    for place, latency, one in sorted(zip(places, latencies, speedups, strict=False), key=lambda row: row[0]):
        if place - last < 0.99 * room:
            continue
        last = place
        at, below = (place, latency.median_ms), one.ratio >= 1
        # Lines rise to the right: below them there is room behind the marker, above them ahead of it.
        side = {"va": "top", "ha": "left"} if below else {"va": "bottom", "ha": "right"}
        ratio_at, interval_at = ((9, -6), (9, -26)) if below else ((-9, 24), (-9, 8))
        look: dict[str, Any] = {"textcoords": "offset points", **side}
        axes.annotate(_ratio(one.ratio), at, ratio_at, size=LARGE - 2, weight="bold", color=QUANTIZED.colour, **look)
        axes.annotate(_interval(one).strip(), at, interval_at, size=SMALL, **look)


def _ratios(axes: Axes, one: Speedup, reach: Sequence[float]) -> None:
    """Draw the placements from the first at the top to the last, and below them the estimate."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(*reach, one.low or one.ratio), max(*reach, one.high or one.ratio)
    pad = 0.06 * (high - low) or 0.01
    axes.axvspan(1 / (1 + one.margin), 1 + one.margin, color=BAND, linewidth=0)
    axes.axvline(1, color=FLOAT.colour, linewidth=2)
    count = len(one.per_placement)
    rows = [1 - index / max(count - 1, 1) for index in range(count)]
    axes.plot(one.per_placement, rows, "o", color=QUANTIZED.colour, alpha=0.6, markersize=7, markeredgewidth=0)
    if one.low is not None and one.high is not None:
        axes.plot((one.low, one.high), (-0.4, -0.4), color=INK, linewidth=4, solid_capstyle="butt")
    axes.plot(one.ratio, -0.4, QUANTIZED.marker, color=QUANTIZED.colour, markeredgecolor=INK, markersize=10)
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])  # nearer to the ends one is written into the next
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(-0.75, 1.2)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)

"""Pictures of a run: latency by batch size, and speedup by placement.

In all pictures the float network is grey, the float network in another runtime blue, the quantized network red. Each
further runtime has a colour: the float network there has a dashed line, the quantized one a solid one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quantexp.reports.cells import interval_text
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

NARROW = 4  # times the smallest batch size: two sizes closer than that have linear axes
ROOM = 1.05  # inches that the text of a speedup takes; closer ones are left out
BAND = "#D9D9D9"
OTHERS = (
    COMPILED,
    Role("#009E73", "^", "--"),
    Role("#CC79A7", "v", "--"),
    Role("#E69F00", "P", "--"),
)  # further runtimes


def latency_figure(report: Report) -> Figure | None:
    """Plot latency by batch size, with the speedups beside the quantized network."""
    precision = report.baseline.precision
    models = [(precision, FLOAT, report.baseline.latency)]
    for at, other in enumerate(report.others):
        role = OTHERS[at % len(OTHERS)]
        models.append((f"{precision} {other.runtime}", role, other.latency))
        if quantized := report.quantized_in(other.runtime):
            solid = dataclasses.replace(role, line="-")
            models.append((f"{quantized_name(report)} {other.runtime}", solid, quantized.measured.latency))
    if report.quantized:
        models.append((quantized_name(report), QUANTIZED, report.quantized.latency))
    sizes = [latency.batch_size for latency in report.baseline.latency]
    if not sizes:
        return None
    speedups = report.comparison.speedups if report.comparison else ()
    note = "marker: median; whiskers: 10 % to 90 % of the samples"
    if any(speedup.low is not None for speedup in speedups):
        note += f"; numbers: speedup over {precision} [95 % interval]"
    width = max(WIDTH, 2.8 + ROOM * len(sizes))
    figure = run_page(report, f"Latency by batch size{_unstable(report)}", note, width=width)
    axes = figure.subplots()
    slower = any(speedup.ratio < 1 for speedup in speedups)
    before = 1.3 if slower else 0.6  # inches; a slowdown is written left of its marker
    place, inch = _batch_axis(axes, sizes, figure.get_figwidth() - 1.1, before)
    curved = len(sizes) > 2 or max(sizes) > NARROW * min(sizes)
    _latency_axis(axes, [latency for _, _, latencies in models for latency in latencies], logarithmic=curved)
    for index, (name, role, latencies) in enumerate(models):
        apart = (0.1 if len(sizes) > 1 else 1) * inch * (index - (len(models) - 1) / 2)  # no whisker hides another
        places = [place(latency.batch_size) + apart for latency in latencies]
        _latencies(axes, places, latencies, name, role)
        if role is QUANTIZED:
            _write_speedups(axes, places, latencies, speedups, room=ROOM * inch)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1)
    return figure


def ratios_figure(report: Report) -> Figure | None:
    """Plot the paired speedups, a row per batch size: on the left with 1 on the axis, on the right close up."""
    speedups = [speedup for speedup in report.comparison.speedups if speedup.per_placement] if report.comparison else []
    if not speedups:
        return None
    precision = report.baseline.precision
    note = f"dots: placements, in order; diamond and bar: mean and 95 % interval; band: 1 ± {_margin(speedups)}"
    height = HEAD + FOOT + 0.7 + 1.5 * len(speedups)
    figure = run_page(report, f"Speedup over {precision} by placement{_unstable(report)}", note, height=height)
    figure.set_layout_engine("none")  # it would widen the gap between the columns for the titles
    inner = {"bottom": (FOOT + 0.65) / height, "top": 1 - (HEAD + 0.3) / height, "left": 0.03, "right": 0.97}
    spaces = {"wspace": 0.08, "hspace": 0.65, "width_ratios": (1, 1.8)}
    grid = figure.subplots(len(speedups), 2, squeeze=False, gridspec_kw=inner | spaces)
    reach = [
        value
        for speedup in speedups
        for value in (*speedup.per_placement, 1 / (1 + speedup.margin), 1 + speedup.margin)
    ]
    for speedup, (whole, close) in zip(speedups, grid, strict=True):
        _ratios(whole, speedup, reach)
        _ratios(close, speedup, speedup.per_placement)
        whole.set_title(f"batch {speedup.batch_size}: {interval_text(speedup)}, {speedup.verdict}", loc="left")
    grid[-1, 0].set_xlabel(f"{precision} time / {report.precision} time")
    grid[-1, 1].set_xlabel("close up")
    return figure


# Parts


def _unstable(report: Report) -> str:
    """Name the batch sizes with unstable latencies."""
    sizes = ", ".join(str(found.batch_size) for found in report.conditions if found.unstable)
    return f" (unstable at {sizes})" if sizes else ""


def _margin(speedups: Sequence[Speedup]) -> str:
    return f"{100 * max(speedup.margin for speedup in speedups):g} %"


def _batch_axis(axes: Axes, sizes: Sequence[int], width: float, before: float) -> tuple[Callable[[int], float], float]:
    """Make a logarithmic axis of the batch sizes, `width` inches wide, with `before` inches left of the first.

    Returns: The position of a size on the axis, and the length of an inch on it.
    """
    places = [math.log2(size) for size in sizes]
    behind = 1.3  # a speedup is written right of its marker
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
    """Make the axis of the latencies: from 0, or logarithmic with round ticks."""
    low, high = min(latency.p10_ms for latency in latencies), max(latency.p90_ms for latency in latencies)
    axes.set_ylabel("latency (ms)")
    axes.grid(axis="y")
    if not logarithmic or low <= 0:
        axes.set_ylim(0, 1.15 * high)
        return
    axes.set_yscale("log")
    ticks = round_ticks(low, high)
    top = min(tick for tick in ticks if tick > 1.05 * high)
    bottom = low / (top / low) ** 0.25  # room for the text below the lowest marker
    shown = [tick for tick in ticks if bottom <= tick <= top]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_yticks([], minor=True)
    axes.set_ylim(bottom, top)


def _latencies(axes: Axes, places: Sequence[float], latencies: Sequence[Latency], name: str, role: Role) -> None:
    whiskers = (
        [latency.median_ms - latency.p10_ms for latency in latencies],
        [latency.p90_ms - latency.median_ms for latency in latencies],
    )
    look: dict[str, Any] = {"color": role.colour, "marker": role.marker, "linestyle": role.line}
    sizes: dict[str, Any] = {"markersize": 10, "linewidth": 2.5, "elinewidth": 2.5, "capsize": 7, "capthick": 2.5}
    axes.errorbar(places, [latency.median_ms for latency in latencies], whiskers, label=name, **look, **sizes)


def _write_speedups(
    axes: Axes, places: Sequence[float], latencies: Sequence[Latency], speedups: Sequence[Speedup], *, room: float
) -> None:
    """Write each speedup at its marker, on the side away from float."""
    last = -math.inf
    for place, latency, speedup in sorted(zip(places, latencies, speedups, strict=False), key=lambda row: row[0]):
        if place - last < 0.99 * room:
            continue
        last = place
        at, below = (place, latency.median_ms), speedup.ratio >= 1
        # Lines rise to the right: there is room below them on the right, and above them on the left.
        side = {"va": "top", "ha": "left"} if below else {"va": "bottom", "ha": "right"}
        ratio_at, interval_at = ((9, -6), (9, -26)) if below else ((-9, 24), (-9, 8))
        look: dict[str, Any] = {"textcoords": "offset points", **side}
        ratio, _, interval = interval_text(speedup).partition(" ")
        axes.annotate(ratio, at, ratio_at, size=LARGE - 2, weight="bold", color=QUANTIZED.colour, **look)
        axes.annotate(interval, at, interval_at, size=SMALL, **look)


def _ratios(axes: Axes, speedup: Speedup, reach: Sequence[float]) -> None:
    """Draw the placements, the first at the top, and below them mean and interval."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(*reach, speedup.low or speedup.ratio), max(*reach, speedup.high or speedup.ratio)
    pad = 0.06 * (high - low) or 0.01
    axes.axvspan(1 / (1 + speedup.margin), 1 + speedup.margin, color=BAND, linewidth=0)
    axes.axvline(1, color=FLOAT.colour, linewidth=2)
    count = len(speedup.per_placement)
    rows = [1 - index / max(count - 1, 1) for index in range(count)]
    axes.plot(speedup.per_placement, rows, "o", color=QUANTIZED.colour, alpha=0.6, markersize=7, markeredgewidth=0)
    if speedup.low is not None and speedup.high is not None:
        axes.plot((speedup.low, speedup.high), (-0.4, -0.4), color=INK, linewidth=4, solid_capstyle="butt")
    axes.plot(speedup.ratio, -0.4, QUANTIZED.marker, color=QUANTIZED.colour, markeredgecolor=INK, markersize=10)
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    axes.set_xticks(
        [tick for tick in ticks if low <= tick <= high]
    )  # closer to the ends, a label would overlap the next axes
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(-0.75, 1.2)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)

"""Marks in the pictures of a sweep: points with whiskers and Pareto front, lines over batch sizes, bars."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantexp.analysis.pareto import pareto_front
from quantexp.analysis.quality import change_from_float
from quantexp.analysis.values import Value, latency_value, quality_interval, speedup_value
from quantexp.analysis.variants import Network, Variant
from quantexp.reports.style import FLOAT, INK, NORMAL, SMALL, round_ticks
from quantexp.reports.sweep_groups import Group, Look
from quantexp.results.comparison import NO_DIFFERENCE
from quantexp.results.text import points_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NARROW = 3  # times the least value: an axis with a wider range is logarithmic
MANY, CROWD = 24, 200  # points; more are drawn smaller, of more only the Pareto front stands out


# Points


def draw_points(
    axes: Axes,
    points: Sequence[tuple[int, Variant, Value, Value]],
    looks: Mapping[str, Look],
    *,
    front: bool = False,
    joined: bool = False,
) -> None:
    """Draw points with whiskers and the number of their network, joined by method or with their Pareto front."""
    best = set(front_line(axes, [(x.value, y.value) for _, _, x, y in points]) if front else ())
    size = (13 if len(points) > MANY else 15) if any(number for number, *_ in points) else 11
    crowded = len(points) > CROWD
    by_look: dict[Look, list[int]] = defaultdict(list)
    by_method: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for at, (number, variant, x, y) in enumerate(points):
        look = looks[variant.method]
        by_look[look].append(at)
        by_method[variant.method].append((x.value, y.value))
        if number:
            ink = "white" if look.full else INK
            axes.annotate(str(number), (x.value, y.value), ha="center", va="center", size=8.5, color=ink, zorder=4)
    for look, alike in by_look.items():  # together, as there may be hundreds
        whiskers: dict[str, Any] = {"color": look.role.colour, "linewidth": 1.5, "zorder": 1}
        whiskers["alpha"] = 0.1 if crowded else 0.45
        places = [points[at][2:] for at in alike]
        across, up = [x.value for x, _ in places], [y.value for _, y in places]
        axes.hlines(up, [x.low for x, _ in places], [x.high for x, _ in places], **whiskers)
        axes.vlines(across, [y.low for _, y in places], [y.high for _, y in places], **whiskers)
        plain = look.marker | ({"markeredgecolor": "white"} if look.full else {})  # separates overlapping ones
        plain["markersize"] = 5 if crowded else size
        outlined = look.marker | {"markeredgecolor": INK, "markeredgewidth": 2, "markersize": size}
        for marker, shown in ((plain, [at not in best for at in alike]), (outlined, [at in best for at in alike])):
            if any(shown):
                xs, ys = (list(itertools.compress(values, shown)) for values in (across, up))
                axes.plot(xs, ys, linestyle="", zorder=3, **marker)
    for method, line in by_method.items() if joined else ():
        look = looks[method]
        axes.plot(*zip(*line, strict=True), look.line, color=look.role.colour, linewidth=1.5, alpha=0.7, zorder=1)
    scale(axes, "x", [value for _, _, x, _ in points for value in (x.value, x.low, x.high)])
    heights = [value for _, _, _, y in points for value in (y.value, y.low, y.high)]
    if joined and max(heights) > NARROW * min(heights) > 0:
        scale(axes, "y", heights)
    axes.grid()


def front_line(axes: Axes, points: Sequence[tuple[float, float]]) -> list[int]:
    """Draw the Pareto front of points (cost, gain) as steps, and return the indices of its points."""
    best = pareto_front(points)
    steps = [points[at] for at in best]
    axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color=INK, linewidth=2, zorder=2)
    return best


def scale(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic with round ticks if its range is wide, else linear; with room at both ends."""
    from matplotlib.ticker import MaxNLocator

    axis, limits = (axes.xaxis, axes.set_xlim) if which == "x" else (axes.yaxis, axes.set_ylim)
    low, high = min(values), max(values)
    if low <= 0 or high <= NARROW * low:
        pad = 0.1 * (high - low) or 0.1 * abs(high) or 1
        axis.set_major_locator(MaxNLocator(4))
        limits(low - pad, high + pad)
        return
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    pad = (high / low) ** 0.1
    low, high = low / pad, high * pad
    steps = (1, 2, 5) if high < 25 * low else (1, 3) if high < 150 * low else (1,)
    shown = [tick for tick in round_ticks(low, high, steps) if low <= tick <= high]
    axis.set_ticks(shown, [f"{tick:g}" for tick in shown])
    axis.set_ticks([], minor=True)
    limits(low, high)


# Lines


def draw_latencies(axes: Axes, network: Network, looks: Mapping[str, Look]) -> None:
    """Draw a line per variant: its latency over the batch size."""
    values = []
    for apart, variant in _apart(network):
        places = [(size, latency_value(variant, size)) for size in variant.sizes]
        values += [value for _, at in places for value in (at.value, at.low, at.high)]
        draw_line(axes, apart, places, looks[variant.method])
    scale(axes, "y", values)
    axes.set_ylabel("latency (ms)")


def draw_speedups(axes: Axes, network: Network, looks: Mapping[str, Look]) -> None:
    """Draw a line per quantized variant: its speedup over the batch size."""
    values = [1.0]
    axes.axhline(1, color=FLOAT.colour, linewidth=2)
    for apart, variant in _apart(network):
        places = [(size, value) for size in variant.sizes if (value := speedup_value(variant, size))]
        values += [value for _, at in places for value in (at.value, at.low, at.high)]
        if places and not variant.is_float:
            draw_line(axes, apart, places, looks[variant.method])
    scale(axes, "y", values)
    axes.set_ylabel("speedup over float")


def _apart(network: Network) -> Iterator[tuple[float, Variant]]:
    """Yield each variant with a factor that shifts it from its batch size, so that no whisker hides another."""
    middle = (len(network.variants) - 1) / 2
    for at, variant in enumerate(network.variants):
        yield 1 + 0.04 * (at - middle), variant


def draw_line(axes: Axes, apart: float, places: Sequence[tuple[float, Value]], look: Look) -> None:
    """Draw a line with whiskers, shifted along the horizontal axis by the factor `apart`."""
    below = [max(0.0, at.value - at.low) for _, at in places]
    above = [max(0.0, at.high - at.value) for _, at in places]
    sizes: dict[str, Any] = {"markersize": 7, "linewidth": 1.8, "elinewidth": 1.8, "capsize": 0}
    across, up = [apart * size for size, _ in places], [at.value for _, at in places]
    axes.errorbar(across, up, (below, above), linestyle=look.line, **look.marker, **sizes)


def batch_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Make a logarithmic axis of the batch sizes, with as many labels as fit."""
    axes.set_xscale("log", base=2)
    least = math.log2(sizes[-1] / sizes[0]) / 7
    named, last = [], -math.inf
    for size in sizes:
        if math.log2(size) - last >= least:
            named.append(size)
            last = math.log2(size)
    axes.set_xticks(named, [str(size) for size in named], size=SMALL)
    axes.set_xticks([], minor=True)
    pad = (sizes[-1] / sizes[0]) ** 0.06
    axes.set_xlim(sizes[0] / pad / 1.1, sizes[-1] * pad * 1.1)
    axes.grid()


# Bars


def draw_bars(
    axes: Axes,
    shown: Sequence[Variant],
    places: Sequence[float],
    looks: Mapping[str, Look],
    values: Sequence[Value | None],
    title: str,
) -> None:
    """Draw a bar with whisker and number for each value that is known."""
    longest = max((value.high for value in values if value), default=1.0)
    for variant, place, value in zip(shown, places, values, strict=True):
        if value is None:
            continue
        look = looks[variant.method]
        colour, hatch = (look.role.colour, "") if look.full else ("white", "//")
        axes.barh(place, value.value, 0.72, color=colour, edgecolor=look.role.colour, hatch=hatch)
        if value.high > value.low:
            axes.plot((value.low, value.high), (place, place), color=INK, linewidth=2.5, solid_capstyle="butt")
        beyond = max(value.high, value.value) + 0.02 * longest
        axes.text(beyond, place, f"{value.value:.2f}", va="center", size=SMALL)
    axes.set_xlim(0, 1.22 * longest)
    axes.set_title(title, loc="left", size=NORMAL - 1)


def quality_dots(axes: Axes, shown: Sequence[Variant], places: Sequence[float], group: Group) -> None:
    """Draw the qualities on an axis without 0, with their change vs float beside them."""
    values = [quality_interval(variant) for variant in shown]
    for variant, place, value in zip(shown, places, values, strict=True):
        look = group.looks[variant.method]
        axes.plot((value.low, value.high), (place, place), color=look.role.colour, linewidth=2.5, alpha=0.6)
        axes.plot(value.value, place, linestyle="", markersize=9, **look.marker)
        if change := change_from_float(variant):
            weight = "normal" if change.verdict == NO_DIFFERENCE else "bold"
            beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            font: dict[str, Any] = {"ha": "right", "va": "center", "size": SMALL, "weight": weight}
            axes.annotate(points_text(change.gain), (1, place), (-2, 0), **beside, **font)
    low, high = min(value.low for value in values), max(value.high for value in values)
    span = high - low or 1.0
    axes.set_xlim(low - 0.05 * span, high + 0.45 * span)
    axes.grid(axis="x")
    axes.set_title(group.quality_label, loc="left", size=NORMAL - 1)

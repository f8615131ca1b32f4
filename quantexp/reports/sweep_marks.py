"""How the figures of a sweep are drawn: points with whiskers and their Pareto front, lines over batch sizes, bars."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantexp.analysis.pareto import pareto_front
from quantexp.analysis.quality import change_from_float
from quantexp.analysis.values import (
    Value,
    latency_value,
    quality_interval,
    quality_value,
    size_value,
    speedup_value,
    sqnr_value,
)
from quantexp.analysis.variants import Network, Variant
from quantexp.reports.style import FLOAT, INK, NORMAL, SMALL, round_ticks
from quantexp.reports.sweep_groups import Group, Look
from quantexp.results.comparison import NO_DIFFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NARROW = 3  # times the least value: up to there an axis is linear
MANY = 24  # points; of more each is drawn smaller


# Points


def draw_points(
    axes: Axes,
    points: Sequence[tuple[int, Variant, Value, Value]],
    looks: Mapping[str, Look],
    *,
    front: bool = False,
    joined: bool = False,
) -> None:
    """Draw points with whiskers, the number of its network in each, joined by method or with their Pareto front."""
    best = front_line(axes, [(x.value, y.value) for _, _, x, y in points]) if front else []
    size = (13 if len(points) > MANY else 15) if any(number for number, *_ in points) else 11
    by_method: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for at, (number, one, x, y) in enumerate(points):
        look = looks[one.method]
        whiskers: dict[str, Any] = {"color": look.role.colour, "linewidth": 1.5, "alpha": 0.45, "zorder": 1}
        axes.plot((x.low, x.high), (y.value, y.value), **whiskers)
        axes.plot((x.value, x.value), (y.low, y.high), **whiskers)
        marker = look.marker | ({"markeredgecolor": "white"} if look.full else {})  # tells apart those that overlap
        marker |= {"markeredgecolor": INK, "markeredgewidth": 2} if at in best else {}
        axes.plot(x.value, y.value, linestyle="", markersize=size, zorder=3, **marker)
        if number:
            ink = "white" if look.full else INK
            axes.annotate(str(number), (x.value, y.value), ha="center", va="center", size=8.5, color=ink, zorder=4)
        by_method[one.method].append((x.value, y.value))
    for method, places in by_method.items() if joined else ():
        look = looks[method]
        axes.plot(*zip(*places, strict=True), look.line, color=look.role.colour, linewidth=1.5, alpha=0.7, zorder=1)
    _scale(axes, "x", [value for _, _, x, _ in points for value in (x.value, x.low, x.high)])
    heights = [value for _, _, _, y in points for value in (y.value, y.low, y.high)]
    if joined and max(heights) > NARROW * min(heights) > 0:
        _scale(axes, "y", heights)
    axes.grid()


def front_line(axes: Axes, points: Sequence[tuple[float, float]]) -> list[int]:
    """Draw the Pareto front of points (cost, gain) as steps, and return which points it holds."""
    best = pareto_front(points)
    steps = [points[at] for at in best]
    axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color=INK, linewidth=2, zorder=2)
    return best


def _scale(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic with round ticks where its values differ much, else linear; with room at both ends."""
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
    values = []
    for apart, one in _apart(network):
        places = [(size, latency_value(one, size)) for size in one.sizes]
        values += [value for _, at in places for value in (at.value, at.low, at.high)]
        _line(axes, apart, places, looks[one.method])
    _scale(axes, "y", values)
    axes.set_ylabel("latency (ms)")


def draw_speedups(axes: Axes, network: Network, looks: Mapping[str, Look]) -> None:
    values = [1.0]
    axes.axhline(1, color=FLOAT.colour, linewidth=2)
    for apart, one in _apart(network):
        places = [(size, value) for size in one.sizes if (value := speedup_value(one, size)) and not one.is_float]
        values += [value for _, at in places for value in (at.value, at.low, at.high)]
        if places:
            _line(axes, apart, places, looks[one.method])
    _scale(axes, "y", values)
    axes.set_ylabel("times as fast as float")


def _apart(network: Network) -> Iterator[tuple[float, Variant]]:
    """Yield each variant with the factor by which it stands beside its batch size: no whisker hides another."""
    middle = (len(network.variants) - 1) / 2
    for at, one in enumerate(network.variants):
        yield 1 + 0.04 * (at - middle), one


def _line(axes: Axes, apart: float, places: Sequence[tuple[int, Value]], look: Look) -> None:
    values = [value for _, value in places]
    whiskers = (
        [max(0.0, one.value - one.low) for one in values],
        [max(0.0, one.high - one.value) for one in values],
    )
    sizes: dict[str, Any] = {"markersize": 7, "linewidth": 1.8, "elinewidth": 1.8, "capsize": 0}
    axes.errorbar(
        [apart * size for size, _ in places],
        [one.value for one in values],
        whiskers,
        linestyle=look.line,
        **look.marker,
        **sizes,
    )


def batch_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Make the axis of the batch sizes, logarithmic, with as many names as there is room for."""
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


def speedup_bars(
    axes: Axes, rows: Sequence[tuple[Network, Variant]], places: Sequence[float], looks: Mapping[str, Look], size: int
) -> None:
    values = [speedup_value(one, size) for _, one in rows]
    _bars(axes, rows, places, looks, values)
    axes.axvline(1, color=FLOAT.colour, linewidth=1.5, zorder=3)
    axes.set_title(f"times as fast, batch {size}", loc="left", size=NORMAL - 1)


def size_bars(
    axes: Axes, rows: Sequence[tuple[Network, Variant]], places: Sequence[float], looks: Mapping[str, Look]
) -> None:
    _bars(axes, rows, places, looks, [size_value(one) for _, one in rows])
    axes.set_title("size (MB)", loc="left", size=NORMAL - 1)


def _bars(
    axes: Axes,
    rows: Sequence[tuple[Network, Variant]],
    places: Sequence[float],
    looks: Mapping[str, Look],
    values: Sequence[Value | None],
) -> None:
    """Draw a bar with its whisker and its number for each value that is known."""
    longest = max((value.high for value in values if value), default=1.0)
    for (_, one), place, value in zip(rows, places, values, strict=True):
        if value is None:
            continue
        look = looks[one.method]
        colour, hatch = (look.role.colour, "") if look.full else ("white", "//")
        axes.barh(place, value.value, 0.72, color=colour, edgecolor=look.role.colour, hatch=hatch)
        if value.high > value.low:
            axes.plot((value.low, value.high), (place, place), color=INK, linewidth=2.5, solid_capstyle="butt")
        beyond = max(value.high, value.value) + 0.02 * longest
        axes.text(beyond, place, f"{value.value:.2f}", va="center", size=SMALL)
    axes.set_xlim(0, 1.22 * longest)


def quality_dots(axes: Axes, rows: Sequence[tuple[Network, Variant]], places: Sequence[float], group: Group) -> None:
    """Draw the accuracies close up, as they lie far from 0, with what changed against float beside them."""
    values = [quality_interval(variant) for _, variant in rows]
    for (network, variant), place, value in zip(rows, places, values, strict=True):
        look = group.looks[variant.method]
        axes.plot((value.low, value.high), (place, place), color=look.role.colour, linewidth=2.5, alpha=0.6)
        axes.plot(value.value, place, linestyle="", markersize=9, **look.marker)
        if change := change_from_float(variant):
            points = value.value - quality_value(network.variants[0]).value
            weight = "normal" if change.verdict == NO_DIFFERENCE else "bold"
            look_of_text: dict[str, Any] = {"ha": "right", "va": "center", "size": SMALL, "weight": weight}
            beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axes.annotate(f"{points:+z.2f}", (1, place), (-2, 0), **beside, **look_of_text)
    low, high = min(value.low for value in values), max(value.high for value in values)
    span = high - low or 1.0
    axes.set_xlim(low - 0.05 * span, high + 0.45 * span)
    axes.grid(axis="x")
    axes.set_title(group.quality_label, loc="left", size=NORMAL - 1)


def sqnr_bars(
    axes: Axes, rows: Sequence[tuple[Network, Variant]], places: Sequence[float], looks: Mapping[str, Look]
) -> None:
    """Draw the output SQNRs, nothing where one is not known."""
    _bars(axes, rows, places, looks, [sqnr_value(variant) for _, variant in rows])
    axes.set_title("output SQNR (dB)", loc="left", size=NORMAL - 1)

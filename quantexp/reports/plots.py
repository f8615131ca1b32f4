"""Pictures of a report, one question each, to be looked at at full size and as a thumbnail.

A colour stands for one role in every picture: grey for the float model, blue for the compiled one, red for
the quantized one. A picture is a function from the report to a figure, or to None where the report does not
hold what it shows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantexp.reports.layer_plots import layers_figure
from quantexp.reports.style import (
    COMPILED,
    FLOAT,
    FOOT,
    HEAD,
    INK,
    LARGE,
    LETTER,
    NORMAL,
    QUANTIZED,
    SMALL,
    WIDTH,
    Role,
    lay_out,
    literal,
    page,
    png,
    round_ticks,
    styled,
)
from quantexp.results import Latency, Measured, Profile, Report, Speedup
from quantexp.results.text import threads_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Colours and hatches of what is no role; the five largest operators have one, all others share the last.
PARTS = (("#0072B2", "//"), ("#E69F00", ""), ("#009E73", "\\\\"), ("#F0E442", ".."), ("#CC79A7", "xx"))
OTHER = ("#D9D9D9", "")
DARK = (FLOAT.colour, QUANTIZED.colour, "#0072B2", "#009E73")  # what is written on these is white

NARROW = 4  # times the smallest batch size: up to there both axes of two sizes are linear
ROOM = 1.05  # inches that a speedup takes; of sizes that lie closer one has none written
BARS = 5.4  # inches that the longest bar is drawn at least


def pictures(report: Report) -> dict[str, bytes]:
    """Return the pictures of a report as PNG by file name; those that it has no figures for are left out."""
    with styled():
        return {name: png(figure) for name, figure in figures(report).items()}


def figures(report: Report) -> dict[str, Figure]:
    """Return the pictures of a report before they are drawn, by file name."""
    pages: dict[str, Callable[[Report], Figure | None]] = {
        "latency.png": latency_figure,
        "ratios.png": ratios_figure,
        "size.png": size_figure,
        "time.png": time_figure,
        "layers.png": layers_figure,
    }
    return {name: figure for name, draw in pages.items() if (figure := draw(report)) is not None}


def latency_figure(report: Report) -> Figure | None:
    """Show the latencies by batch size, and at the quantized model's how many times as fast it is."""
    models = [(report.baseline.precision, FLOAT, report.baseline.latency)]
    if report.compiled:
        models.append((f"{report.baseline.precision} compiled", COMPILED, report.compiled.latency))
    if report.quantized:
        models.append((_quantized(report), QUANTIZED, report.quantized.latency))
    sizes = [one.batch_size for one in report.baseline.latency]
    if not sizes:
        return None
    speedups = report.comparison.speedups if report.comparison else ()
    note = "marker: median; whiskers: 10 % to 90 % of the samples"
    if any(one.low is not None for one in speedups):
        note += f"; x: times as fast as {report.baseline.precision} [95 % interval]"
    figure = _page(report, f"Latency by batch size{_doubts(report)}", note, width=max(WIDTH, 2.8 + ROOM * len(sizes)))
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
    figure = _page(report, f"Times as fast as {precision}, by placement{_doubts(report)}", note, height=height)
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


def size_figure(report: Report) -> Figure | None:
    """Show the bytes that the weights take in memory, by the dtype they are held in."""
    models = _models(report)
    held = [{dtype: count / 1e6 for dtype, count in model.size.weight_bytes.items() if count} for _, model in models]
    totals = [sum(one.values()) for one in held]
    if not all(totals):
        return None
    title, note = "Weights in memory", "with biases, scales and zero points"
    if report.comparison:
        title += f": {totals[0] / totals[1]:.2f}x smaller"
        note += f"; the saved file is {report.comparison.compression:.2f}x smaller"
    figure = _page(report, title, note, height=HEAD + FOOT + 1.6 + 0.9 * len(models))
    axes = figure.subplots()
    looks = _dtype_looks(report, held)
    narrow = _stacks(axes, [name for name, _ in models], held, looks, digits=2)
    offset: dict[str, Any] = {"textcoords": "offset points"}
    for row, (total, texts) in enumerate(zip(totals, narrow, strict=True)):
        axes.annotate(f"{total:.2f} MB", (total, row), (8, 0), va="center", weight="bold", **offset)
        below = f"also {', '.join(texts)}" if texts else ""
        axes.annotate(below, (0, row + 0.35), (0, -4), va="top", size=SMALL, **offset)
    axes.set_xlim(0, 1.2 * max(totals))
    axes.set_xlabel("MB (1e6 bytes)")
    _key(figure, looks)
    return figure


def time_figure(report: Report) -> Figure | None:
    """Show which operators the time of a forward pass goes to, a bar a model and batch size."""
    models = _models(report)
    rows = [
        (f"{name}\nbatch {one.batch_size}", one)
        for of_size in zip(*(model.profiles for _, model in models), strict=True)
        for (name, _), one in zip(models, of_size, strict=True)
    ]
    if not any(one.shares for _, one in rows):
        return None
    looks = _operator_looks([one for _, one in rows])
    note = "share of the time in each operator itself, without those that it calls"
    figure = _page(report, "Where the time goes", note, height=HEAD + FOOT + 1.8 + 0.62 * len(rows))
    axes = figure.subplots()
    _stacks(axes, [name for name, _ in rows], [_percent(one, looks) for _, one in rows], looks, digits=0)
    for row in range(len(models), len(rows), len(models)):
        axes.axhline(row - 0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of a forward pass")
    _key(figure, looks)
    return figure


# The page


def _page(report: Report, title: str, note: str, *, width: float = WIDTH, height: float = 5.0) -> Figure:
    """Return a figure, its size in inches, with what is shown and compared above the axes and a note below."""
    return page(title, _compared(report), note, width=width, height=height)


def _compared(report: Report) -> str:
    """Say what is compared: `mnist (sample), mlp: static int8 against fp32, 1 thread`."""
    against = f"{_quantized(report)} against " if report.quantized else ""
    compared = f"{against}{report.baseline.precision}, {threads_text(report.threads)}"
    return f"{literal(report.network_name)}: {compared}"


def _doubts(report: Report) -> str:
    """Name the batch sizes whose latencies are not to be trusted."""
    sizes = ", ".join(str(one.batch_size) for one in report.conditions if one.unstable)
    return f" (unstable at {sizes})" if sizes else ""


def _models(report: Report) -> list[tuple[str, Measured]]:
    models = [(report.baseline.precision, report.baseline)]
    return [*models, (_quantized(report), report.quantized)] if report.quantized else models


def _quantized(report: Report) -> str:
    return _short(f"{report.quant} {report.precision}")


def _ratio(value: float) -> str:
    return f"{value:.2f}x"


def _interval(one: Speedup) -> str:
    return "" if one.low is None or one.high is None else f" [{one.low:.2f}, {one.high:.2f}]"


def _margin(speedups: Sequence[Speedup]) -> str:
    return f"{100 * max(one.margin for one in speedups):g} %"


# Latency


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


# Ratios


def _ratios(axes: Axes, one: Speedup, reach: Sequence[float]) -> None:
    """Draw the placements from the first at the top to the last, and below them the estimate."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(*reach, one.low or one.ratio), max(*reach, one.high or one.ratio)
    pad = 0.06 * (high - low) or 0.01
    axes.axvspan(1 / (1 + one.margin), 1 + one.margin, color=OTHER[0], linewidth=0)
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


# Bars


def _dtype_looks(report: Report, held: Sequence[Mapping[str, float]]) -> dict[str, tuple[str, str]]:
    """Choose colour and hatch of each dtype: those of the two models' precisions are drawn as the models are."""
    roles = {report.precision: (QUANTIZED.colour, "//"), report.baseline.precision: (FLOAT.colour, "")}
    dtypes = sorted(
        {dtype for one in held for dtype in one}, key=lambda dtype: (-sum(one.get(dtype, 0) for one in held), dtype)
    )
    looks = iter(PARTS)
    return {dtype: roles.get(dtype) or next(looks, OTHER) for dtype in dtypes}


def _operator_looks(profiles: Sequence[Profile]) -> dict[str, tuple[str, str]]:
    """Choose colour and hatch of the operators that take the most time over all profiles, and of all others."""
    spent: Counter[str] = Counter()
    for one in (one for profile in profiles for one in profile.shares):
        spent[one.operator] += one.share  # type: ignore[assignment]
    largest = [name for name, _ in spent.most_common(len(PARTS))]
    return dict(zip(largest, PARTS, strict=False)) | {"other": OTHER}


def _percent(profile: Profile, looks: Mapping[str, object]) -> dict[str, float]:
    """Return the shares in per cent of the operators that have a look of their own, and of the rest."""
    named = {one.operator: 100 * one.share for one in profile.shares if one.operator in looks}
    return named | {"other": max(0.0, 100 - sum(named.values()))}


def _stacks(
    axes: Axes,
    names: Sequence[str],
    stacks: Sequence[Mapping[str, float]],
    looks: Mapping[str, tuple[str, str]],
    *,
    digits: int,
) -> list[list[str]]:
    """Draw a bar a name, the first at the top, its pieces in the order of `looks`.

    Returns: What was too long to be written into the pieces of each bar.
    """
    longest = max(sum(stack.values()) for stack in stacks)
    left_out: list[list[str]] = [[] for _ in stacks]
    for row, stack in enumerate(stacks):
        start = 0.0
        for part, value in ((part, stack[part]) for part in looks if part in stack):
            colour, hatch = looks[part]
            axes.barh(row, value, 0.7, start, color=colour, hatch=hatch, edgecolor="white", linewidth=1)
            long, short = f"{_short(part)} {value:.{digits}f}", f"{value:.{digits}f}"
            if text := _fitting_in(value / longest * BARS, long, short):
                box = {"facecolor": colour, "edgecolor": "none", "pad": 2}
                ink = "white" if colour in DARK else INK
                axes.text(start + value / 2, row, text, ha="center", va="center", color=ink, bbox=box)
            else:
                left_out[row].append(long)
            start += value
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return left_out


def _key(figure: Figure, looks: Mapping[str, tuple[str, str]]) -> None:
    """Write the key of the pieces above the axes, in as many columns as there is room for."""
    from matplotlib.patches import Patch

    names = [_short(part) for part in looks]
    column = 0.75 + LETTER * SMALL / 72 * max(map(len, names))
    columns = max(1, int((WIDTH - 0.3) / column))
    key = [
        Patch(facecolor=colour, hatch=2 * hatch, edgecolor="white", label=name)
        for name, (colour, hatch) in zip(names, looks.values(), strict=True)
    ]
    corner = (0.1 / figure.get_figwidth(), 1 - (HEAD + 0.04) / figure.get_figheight())
    figure.legend(handles=key, loc="upper left", bbox_to_anchor=corner, ncols=columns, fontsize=SMALL, borderaxespad=0)
    lay_out(figure, HEAD + 0.1 + 0.25 * math.ceil(len(key) / columns))


def _short(part: str) -> str:
    """Return the name of a model, dtype or operator, the end of a long one, without the namespace that most have."""
    name = literal(part.removeprefix("aten::"))
    return name if len(name) <= 24 else f"...{name[-21:]}"


def _fitting_in(inches: float, *texts: str) -> str:
    """Return the first of the texts that is no wider than that, or nothing."""
    return next((text for text in texts if LETTER * NORMAL / 72 * len(text) <= inches), "")

"""Pictures of a run as bars: the weights in memory by dtype, the time of a forward pass by operator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantexp.reports.run_page import models, run_page, short
from quantexp.reports.style import FLOAT, FOOT, HEAD, INK, LETTER, NORMAL, QUANTIZED, SMALL, WIDTH, lay_out
from quantexp.results import Profile, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours and hatches of the five largest parts; all others share the last one.
PARTS = (("#0072B2", "//"), ("#E69F00", ""), ("#009E73", "\\\\"), ("#F0E442", ".."), ("#CC79A7", "xx"))
OTHER = ("#D9D9D9", "")
DARK = (FLOAT.colour, QUANTIZED.colour, "#0072B2", "#009E73")  # text on these is white
BARS = 5.4  # least length of the longest bar in inches


def size_figure(report: Report) -> Figure | None:
    """Plot the size of the weights in memory by dtype."""
    shown = models(report)
    sizes = [model.size for _, model in shown]
    if not all(size.weights_mb for size in sizes):
        return None
    held = [{dtype: count / 1e6 for dtype, count in size.weight_bytes.items() if count} for size in sizes]
    title, note = "Weights in memory", "including biases, scales and zero points"
    if report.comparison:
        title += f": {sizes[0].weights_mb / sizes[1].weights_mb:.2f}x smaller"
        note += f"; the saved file is {report.comparison.compression:.2f}x smaller"
    figure = run_page(report, title, note, height=HEAD + FOOT + 1.6 + 0.9 * len(shown))
    axes = figure.subplots()
    looks = _dtype_looks(report, held)
    narrow = _stacks(axes, [name for name, _ in shown], held, looks, digits=2)
    offset: dict[str, Any] = {"textcoords": "offset points"}
    for row, (size, texts) in enumerate(zip(sizes, narrow, strict=True)):
        total = size.weights_mb
        axes.annotate(f"{total:.2f} MB", (total, row), (8, 0), va="center", weight="bold", **offset)
        below = f"also {', '.join(texts)}" if texts else ""
        axes.annotate(below, (0, row + 0.35), (0, -4), va="top", size=SMALL, **offset)
    axes.set_xlim(0, 1.2 * max(size.weights_mb for size in sizes))
    axes.set_xlabel("MB (1e6 bytes)")
    _legend(figure, looks)
    return figure


def time_figure(report: Report) -> Figure | None:
    """Plot the time of a forward pass by operator, a bar per model and batch size."""
    shown = models(report)
    rows = [
        (f"{name}\nbatch {profile.batch_size}", profile)
        for of_size in zip(*(model.profiles for _, model in shown), strict=True)
        for (name, _), profile in zip(shown, of_size, strict=True)
    ]
    profiles = [profile for _, profile in rows]
    if not any(profile.shares for profile in profiles):
        return None
    looks = _operator_looks(profiles)
    note = "share of the time in each operator itself, without the operators that it calls"
    figure = run_page(report, "Where the time goes", note, height=HEAD + FOOT + 1.8 + 0.62 * len(rows))
    axes = figure.subplots()
    _stacks(axes, [name for name, _ in rows], [_percent(profile, looks) for profile in profiles], looks, digits=0)
    for row in range(len(shown), len(rows), len(shown)):
        axes.axhline(row - 0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of a forward pass")
    _legend(figure, looks)
    return figure


# Parts


def _dtype_looks(report: Report, held: Sequence[Mapping[str, float]]) -> dict[str, tuple[str, str]]:
    """Choose colour and hatch of each dtype; the precisions of the two models look like the models."""
    roles = {report.precision: (QUANTIZED.colour, "//"), report.baseline.precision: (FLOAT.colour, "")}
    total = {dtype: sum(stack.get(dtype, 0) for stack in held) for stack in held for dtype in stack}
    looks = iter(PARTS)
    ordered = sorted(total, key=lambda dtype: (-total[dtype], dtype))
    return {dtype: roles.get(dtype) or next(looks, OTHER) for dtype in ordered}


def _operator_looks(profiles: Sequence[Profile]) -> dict[str, tuple[str, str]]:
    """Choose colour and hatch of the operators that take most time over all profiles, and of all others."""
    spent: Counter[str] = Counter()
    for part in (part for profile in profiles for part in profile.shares):
        spent[part.operator] += part.share  # type: ignore[assignment]  # shares are no integers
    largest = [name for name, _ in spent.most_common(len(PARTS))]
    return dict(zip(largest, PARTS, strict=False)) | {"other": OTHER}


def _percent(profile: Profile, looks: Mapping[str, object]) -> dict[str, float]:
    """Return the percentages of the operators that have a look of their own, and of the rest."""
    named = {part.operator: 100 * part.share for part in profile.shares if part.operator in looks}
    return named | {"other": max(0.0, 100 - sum(named.values()))}


def _stacks(
    axes: Axes,
    names: Sequence[str],
    stacks: Sequence[Mapping[str, float]],
    looks: Mapping[str, tuple[str, str]],
    *,
    digits: int,
) -> list[list[str]]:
    """Draw a stacked bar per name, the first at the top, its parts in the order of `looks`.

    Returns: For each bar the labels that did not fit into their part.
    """
    longest = max(sum(stack.values()) for stack in stacks)
    left_out: list[list[str]] = [[] for _ in stacks]
    for row, stack in enumerate(stacks):
        start = 0.0
        for part, value in ((part, stack[part]) for part in looks if part in stack):
            colour, hatch = looks[part]
            axes.barh(row, value, 0.7, start, color=colour, hatch=hatch, edgecolor="white", linewidth=1)
            named, alone = f"{short(part)} {value:.{digits}f}", f"{value:.{digits}f}"
            if text := _fitting_in(value / longest * BARS, named, alone):
                box = {"facecolor": colour, "edgecolor": "none", "pad": 2}
                ink = "white" if colour in DARK else INK
                axes.text(start + value / 2, row, text, ha="center", va="center", color=ink, bbox=box)
            else:
                left_out[row].append(named)
            start += value
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return left_out


def _legend(figure: Figure, looks: Mapping[str, tuple[str, str]]) -> None:
    """Draw the legend of the parts above the axes, in as many columns as fit."""
    from matplotlib.patches import Patch

    names = [short(part) for part in looks]
    column = 0.75 + LETTER * SMALL / 72 * max(map(len, names))
    columns = max(1, int((WIDTH - 0.3) / column))
    handles = [
        Patch(facecolor=colour, hatch=2 * hatch, edgecolor="white", label=name)
        for name, (colour, hatch) in zip(names, looks.values(), strict=True)
    ]
    corner = (0.1 / figure.get_figwidth(), 1 - (HEAD + 0.04) / figure.get_figheight())
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=corner, ncols=columns, fontsize=SMALL, borderaxespad=0
    )
    lay_out(figure, HEAD + 0.1 + 0.25 * math.ceil(len(handles) / columns))


def _fitting_in(inches: float, *texts: str) -> str:
    """Return the first of the texts that fits into the width, or nothing."""
    return next((text for text in texts if LETTER * NORMAL / 72 * len(text) <= inches), "")

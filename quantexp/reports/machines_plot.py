"""Pictures of machines side by side: the speedup of each experiment on each machine, with its interval.

A picture belongs to one task and network. Its rows are grouped by batch size; each row has a mark for each machine.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantexp.analysis.machines import SharedExperiment, SideBySide
from quantexp.analysis.names import setup_names
from quantexp.analysis.settings import Settings, settings_text
from quantexp.analysis.values import Value, speedup_value
from quantexp.analysis.variants import Setup, Variant
from quantexp.reports.style import (
    FLOAT,
    FOOT,
    HEAD,
    INK,
    LETTER,
    NORMAL,
    SMALL,
    WIDTH,
    lay_out,
    literal,
    page,
    png,
    round_ticks,
    styled,
)
from quantexp.reports.sweep_groups import MORE_ROLES, Look, cut
from quantexp.reports.sweep_groups import ROLES as METHOD_ROLES
from quantexp.reports.sweep_plots import Picture, file_name
from quantexp.results.text import threads_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROLES = (*(role for role in METHOD_ROLES.values() if role is not FLOAT), *MORE_ROLES)
FILLINGS = ("full", "none", "left")  # of the marks of further machines
LINE = 0.25  # inches between the marks of two machines
GAP = 0.14  # inches between two experiments
MOST_LINES = 30  # in a picture, unless one batch size of one experiment has more
LONGEST = 28  # characters of the name of an experiment
NARROW = 3  # times the least value: an axis with a wider range is logarithmic


@dataclass(frozen=True)
class Mark:
    """The speedup in one setup: the number of the setup, and the value with its interval."""

    setup: int
    value: Value
    unstable: bool


@dataclass(frozen=True)
class Row:
    """The marks of one experiment at one batch size."""

    size: int
    name: str
    marks: tuple[Mark, ...]


def machine_pictures(compared: SideBySide) -> list[Picture]:
    """Return the pictures with titles and captions; none if no experiment was quantized on two machines."""
    found = []
    with styled():
        for file, figure in machine_figures(compared).items():
            title, subtitle, note = (text.get_text() for text in figure.texts[:3])
            found.append(Picture(file, title, f"{subtitle} ({note})", png(figure)))
    return found


def machine_figures(compared: SideBySide) -> dict[str, Figure]:
    """Return the figures, before they are drawn, by file name."""
    every = compared.setups
    numbers = {setup: number for number, setup in enumerate(every)}
    of_network: dict[tuple[str, Settings], list[SharedExperiment]] = defaultdict(list)
    for shared in compared.experiments:
        if len(shared.machines) > 1 and not shared.variants[0].is_float:
            of_network[shared.variants[0].task, shared.variants[0].network].append(shared)
    named: dict[str, Figure] = {}
    for (task, network), experiments in of_network.items():
        title = ", ".join(text for text in (task, settings_text(network)) if text)
        for rows in _chunks(_rows(experiments, numbers)):
            stem, number = file_name(f"speedup-{task}"), 1
            while (file := f"{stem}-{number}.png" if number > 1 else f"{stem}.png") in named:
                number += 1
            named[file] = _figure("; ".join((title, *_measured(every))), rows, _legends(compared, every))
    return named


def _rows(experiments: Sequence[SharedExperiment], numbers: Mapping[Setup, int]) -> Iterator[Row]:
    """Yield the rows that have marks, by batch size."""
    for size in sorted({size for shared in experiments for size in shared.sizes}):
        for shared in experiments:
            marks = [
                Mark(numbers[variant.setup], value, variant.unstable(size))
                for variant in shared.variants
                if variant.setup and (value := _speedup(variant, size))
            ]
            if marks:
                yield Row(size, literal(cut(shared.variants[0].method, LONGEST)), tuple(marks))


def _speedup(variant: Variant, size: int) -> Value | None:
    return speedup_value(variant, size) if variant.speedups(size) else None


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Yield the rows in chunks that fit into a picture."""
    chunk: list[Row] = []
    for row in rows:
        if chunk and sum(len(other.marks) for other in (*chunk, row)) > MOST_LINES:
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def _measured(every: Sequence[Setup]) -> Iterator[str]:
    """Yield how all machines measured; nothing if they differ, as the legend says it then."""
    protocols = {(setup.protocol, setup.threads) for setup in every}
    if len(protocols) == 1:
        ((protocol, threads),) = protocols
        yield f"{protocol}, {threads_text(threads)}"


def _legends(compared: SideBySide, every: Sequence[Setup]) -> list[str]:
    """Return what the legend says of each setup: its machine, how it measured if that differs, and its hardware."""
    names = setup_names(every)
    of_machine = {machine.name: machine for machine in compared.machines}
    texts = []
    for setup in every:
        facts = of_machine[setup.host].facts
        hardware = ", ".join(text for text in (facts.cpu, f"{facts.cores} cores" if facts.cores else "") if text)
        texts.append(f"{names[setup] or setup.host}{f': {hardware}' if hardware else ''}")
    return [literal(cut(text, int((WIDTH - 0.7) * 72 / (LETTER * SMALL)))) for text in texts]


def _figure(title: str, rows: Sequence[Row], legends: Sequence[str]) -> Figure:
    """Draw the rows from top to bottom, a heading above each batch size."""
    from matplotlib.lines import Line2D

    places: list[float] = []
    headings: list[tuple[float, str]] = []
    at = 0.0
    for before, row in zip((None, *rows), rows, strict=False):
        if before is None or before.size != row.size:
            at += 0.1 * (before is not None)
            headings.append((at + LINE / 2, f"batch {row.size}"))
            at += LINE
        places.append(at)
        at += LINE * len(row.marks) + GAP
    shown = sorted({mark.setup for row in rows for mark in row.marks})
    head = HEAD + 0.14 + 0.25 * len(shown)
    note = "whiskers: 95 % interval, where there is one; the line at 1 is float; *: unstable"
    figure = page("Speedup over float on each machine", literal(title), note, height=head + at + 0.75 + FOOT)
    handles = [
        Line2D([], [], label=legends[setup], linestyle="", markersize=9, **_look(setup).marker) for setup in shown
    ]
    corner = (0.1 / WIDTH, 1 - (HEAD + 0.04) / figure.get_figheight())
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=corner, fontsize=SMALL, borderaxespad=0)
    lay_out(figure, head)
    _draw(figure.subplots(), rows, places, headings, at)
    return figure


def _look(setup: int) -> Look:
    filling = FILLINGS[setup // len(ROLES) % len(FILLINGS)]
    return Look(ROLES[setup % len(ROLES)], filling, "-")


def _draw(
    axes: Axes, rows: Sequence[Row], places: Sequence[float], headings: Sequence[tuple[float, str]], end: float
) -> None:
    """Draw marks with whiskers, and the speedups as numbers at the right."""
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    for row, place in zip(rows, places, strict=True):
        for line, mark in enumerate(row.marks):
            height, look = place + (line + 0.5) * LINE, _look(mark.setup)
            axes.plot((mark.value.low, mark.value.high), (height, height), color=look.role.colour, linewidth=2.5)
            axes.plot(mark.value.value, height, linestyle="", markersize=9, zorder=3, **look.marker)
            text = f"{mark.value.value:.2f}x{'*' if mark.unstable else ''}"
            axes.annotate(text, (1, height), (-2, 0), ha="right", size=SMALL, **beside)
    axes.axvline(1, color=FLOAT.colour, linewidth=1.5, zorder=1)
    middles = [place + len(row.marks) * LINE / 2 for row, place in zip(rows, places, strict=True)]
    labels = [*(heading for _, heading in headings), *(row.name for row in rows)]
    axes.set_yticks([*(height for height, _ in headings), *middles], labels, size=NORMAL)
    for label in axes.get_yticklabels()[: len(headings)]:
        label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(end, 0)
    _scale(axes, [value for row in rows for mark in row.marks for value in (mark.value.low, mark.value.high)])
    axes.set_xlabel("speedup over float on the same machine", color=INK)
    axes.grid(axis="x")


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Show all values and 1, on a logarithmic axis if they differ much, with room for the numbers at the right."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(1.0, *values), max(1.0, *values)
    if high <= NARROW * low:
        span = high - low or 0.1
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlim(low - 0.06 * span, high + 0.2 * span)
        return
    axes.set_xscale("log")
    span = math.log(high / low)
    low, high = low * math.exp(-0.06 * span), high * math.exp(0.2 * span)
    shown = [tick for tick in round_ticks(low, high) if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)

"""Pictures of a sweep, one question each; each names its task and how it was measured."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantexp.analysis.foremost import foremost
from quantexp.analysis.settings import settings_text
from quantexp.analysis.values import Value, latency_value, quality_value, size_value, speedup_value, sqnr_value
from quantexp.analysis.variants import Network
from quantexp.reports.axis_plots import axis_figures
from quantexp.reports.style import FLOAT, FOOT, HEAD, SMALL, literal, page, png, styled
from quantexp.reports.sweep_groups import Group, cut, group_page, groups
from quantexp.reports.sweep_marks import (
    batch_axis,
    draw_bars,
    draw_latencies,
    draw_points,
    draw_speedups,
    quality_dots,
)
from quantexp.results.sweep import SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADING: dict[str, Any] = {"textcoords": "offset points", "va": "center", "size": SMALL, "weight": "bold"}
ROWS = 12  # most bars in a picture, unless one network has more
LONGEST = 28  # characters of a method's name beside its bars
PANELS = 3  # most rows of panels in a picture
MOST_BARS = 4 * ROWS  # variants in all pictures with a bar, a line or a panel for each


@dataclass(frozen=True)
class Picture:
    """A drawn picture: file name, title, caption and PNG."""

    file: str
    title: str
    caption: str
    png: bytes


def pictures(sweep: SweepResult) -> dict[str, bytes]:
    """Return the pictures of a sweep as PNG by file name, without those that have nothing to show."""
    return {picture.file: picture.png for picture in drawn(sweep)}


def drawn(sweep: SweepResult) -> list[Picture]:
    """Return the pictures of a sweep with titles and captions."""
    found = []
    with styled():
        for file, figure in figures(sweep).items():
            title, subtitle, note = (text.get_text() for text in figure.texts[:3])
            found.append(Picture(file, title, f"{subtitle} ({note})", png(figure)))
    return found


def figures(sweep: SweepResult) -> dict[str, Figure]:
    """Return the figures of a sweep, before they are drawn, by file name."""
    by_task: dict[str, list[Group]] = defaultdict(list)
    for group in groups(sweep):
        by_task[group.networks[0].task].append(group)
    named: dict[str, Figure] = {}
    for task, of_task in by_task.items():
        quality = of_task[0].quality
        pages: dict[str, Callable[[Group], Iterator[Figure]]] = {
            f"{quality}-latency": quality_latency_figures,
            f"size-{quality}": size_quality_figures,
            "batch-sizes": batch_size_figures,
            "methods": method_figures,
            "flops": flops_figures,
        }
        first: dict[tuple[str, str], Group] = {}
        for group in of_task:
            first.setdefault(group.networks[0].setup.place, group)
        for kind, draw in pages.items():
            # Size and accuracy do not depend on protocol and threads: one picture per machine is enough.
            for group in first.values() if draw is size_quality_figures else of_task:
                for figure in draw(group):
                    named[_free(f"{kind}-{task}", named)] = figure
    for kind, figure in axis_figures(sweep):
        named[_free(kind, named)] = figure
    return named


def quality_latency_figures(group: Group) -> Iterator[Figure]:
    """Plot accuracy vs latency at the smallest and the largest batch size, with the Pareto front."""
    if not group.ends:
        return
    note = f"line and outlined markers: Pareto front{_whiskers(group)}{_unnumbered(group)}"
    figure = group_page(group, f"{group.quality.capitalize()} vs latency", note, height=4.7)
    grid = figure.subplots(1, len(group.ends), squeeze=False, sharey=True)[0]
    for axes, size in zip(grid, group.ends, strict=True):
        points = [
            (number, variant, latency_value(variant, size), quality_value(variant))
            for number, variant in group.variants
            if variant.latencies(size)
        ]
        draw_points(axes, points, group.looks, front=True)
        axes.set_xlabel(f"latency at batch {size} (ms)")
    grid[0].set_ylabel(group.quality_label)
    yield figure


def size_quality_figures(group: Group) -> Iterator[Figure]:
    """Plot accuracy vs the size of the saved file, with the Pareto front."""
    note = f"line and outlined markers: Pareto front{_whiskers(group, samples=False)}{_unnumbered(group)}"
    figure = group_page(group, f"{group.quality.capitalize()} vs size", note, height=4.7)
    axes = figure.subplots()
    points = [(number, variant, size_value(variant), quality_value(variant)) for number, variant in group.variants]
    draw_points(axes, points, group.looks, front=True)
    axes.set_xlabel("size of the saved state dict (MB)")
    axes.set_ylabel(group.quality_label)
    yield figure


def batch_size_figures(group: Group) -> Iterator[Figure]:
    """Plot latency and speedup over the batch size, a row per network."""
    if len(group.sizes) < 2 or (len(group.sizes) == 2 and len(group.networks) > PANELS):
        return  # the bars show two sizes of many networks better
    few, left = _few(group)
    for start in range(0, len(few), PANELS):
        shown = few[start : start + PANELS]
        spread = f"± std over {group.seeds} seeds" if group.seeds > 1 else "10 % to 90 % of the samples"
        note = f"left: median, whiskers {spread}; right: whiskers 95 % interval{left}"
        height = 1.3 + 3.3 * len(shown)
        figure = group_page(group, "Latency and speedup by batch size", note, height=height, numbers=False)
        grid = figure.subplots(len(shown), 2, squeeze=False)
        for (left, right), network in zip(grid, shown, strict=True):
            draw_latencies(left, network, group.looks)
            draw_speedups(right, network, group.looks)
            if len(group.networks) > 1:
                left.set_title(literal(cut(settings_text(network.settings), 60)), loc="left", size=SMALL)
            for axes in (left, right):
                batch_axis(axes, group.sizes)
        for axes in grid[-1]:
            axes.set_xlabel("batch size")
        yield figure


def method_figures(group: Group) -> Iterator[Figure]:
    """Plot speedup, size and accuracy of each method as bars and points with intervals."""
    if not group.sizes:
        return
    labelled = group.quality == "accuracy"
    few, left = _few(group)
    for shown in _chunks(few):
        rows = [variant for network in shown for variant in network.variants]
        interval = f"Student's t over {group.seeds} seeds" if group.seeds > 1 else "95 % interval"
        beside = "; numbers beside accuracies: points vs float, bold if significant" * labelled
        panels = math.ceil((len(group.ends) + 2 + (not labelled)) / 2)
        gaps = 0.45 * (len(shown) - 1) if len(group.networks) > 1 else 0
        height = HEAD + FOOT + 0.2 + panels * (1.0 + 0.42 * len(rows) + gaps)
        figure = page("Methods side by side", group.subtitle, f"whiskers: {interval}{beside}{left}", height=height)
        grid = figure.subplots(panels, 2, squeeze=False, sharey=True)
        places, titles = _places(shown, titled=len(group.networks) > 1)
        cells = iter(grid.flat)
        for size in group.ends:
            axes, speedups = next(cells), [speedup_value(variant, size) for variant in rows]
            draw_bars(axes, rows, places, group.looks, speedups, f"speedup, batch {size}")
            axes.axvline(1, color=FLOAT.colour, linewidth=1.5, zorder=3)
        draw_bars(next(cells), rows, places, group.looks, [size_value(variant) for variant in rows], "size (MB)")
        quality_dots(next(cells), rows, places, group)
        if not labelled:
            sqnrs = [sqnr_value(variant) for variant in rows]
            draw_bars(next(cells), rows, places, group.looks, sqnrs, "output SQNR (dB)")
        for axes in cells:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_zorder(1)  # long titles reach over the panel beside
            axes.patch.set_visible(False)
            axes.set_yticks(places, [literal(cut(variant.method, LONGEST)) for variant in rows], size=SMALL)
            axes.set_ylim(max(places) + 0.6, min([*places, *(place for place, _ in titles)]) - 0.6)
            for place, title in titles:
                axes.annotate(title, (0, place), (4, 0), xycoords=("axes fraction", "data"), **HEADING)
        for axes in grid.flat:
            axes.tick_params(axis="y", length=0)
        yield figure


def flops_figures(group: Group) -> Iterator[Figure]:
    """Plot accuracy, FLOPs and latency against each other, if networks differ in their FLOPs."""
    known = [(at, network, network.flops) for at, network in enumerate(group.networks, 1) if network.flops is not None]
    if len({flops for *_, flops in known}) < 2:
        return
    order = sorted(known, key=lambda entry: entry[2])
    flops, latency = "MFLOPs per example", "latency (ms)"
    for size in group.ends:
        found = [
            (number * group.numbered, variant, count)
            for number, network, count in order
            for variant in network.variants
            if variant.latencies(size)
        ]
        cost = [Value.exact(count / 1e6) for *_, count in found]
        quality = [quality_value(variant) for _, variant, _ in found]
        times = [latency_value(variant, size) for _, variant, _ in found]
        speedups = [speedup_value(variant, size) for _, variant, _ in found]
        note = f"one line per method, by rising FLOPs{_whiskers(group)}{_unnumbered(group)}"
        title = f"{group.quality.capitalize()}, FLOPs and latency at batch {size}"
        figure = group_page(group, title, note, height=8.0)
        panels: list[tuple[Sequence[Value], Sequence[Value | None], str, str]] = [
            (cost, quality, flops, group.quality_label),
            (cost, times, flops, latency),
            (times, quality, latency, group.quality_label),
        ]
        if any(not variant.is_float for _, variant, _ in found):
            panels.append((cost, speedups, flops, "speedup over float"))
        grid = list(figure.subplots(2, 2).flat)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, (across, up, across_label, up_label) in zip(grid, panels, strict=False):
            both = zip(found, across, up, strict=True)
            points = [(number, variant, x, y) for (number, variant, _), x, y in both if y is not None]
            draw_points(axes, points, group.looks, joined=True)
            axes.set_xlabel(across_label)
            axes.set_ylabel(up_label)
        yield figure


def _few(group: Group) -> tuple[Sequence[Network], str]:
    """Return the networks that have bars or panels, and what the note says if they are not all."""
    few = foremost(group.networks, MOST_BARS)
    shown = sum(len(network.variants) for network in few)
    total = len(group.variants)
    return few, "" if shown == total else f"; {shown} of {total:,}, those on a Pareto front first"


def _places(shown: Sequence[Network], *, titled: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the position of each bar, and the position and title of each network above its bars."""
    places: list[float] = []
    titles: list[tuple[float, str]] = []
    at = 0.0
    for network in shown:
        if titled:
            titles.append((at, literal(cut(settings_text(network.settings), 60))))
            at += 0.9
        places += [at + row for row in range(len(network.variants))]
        at += len(network.variants) + 0.2
    return places, titles


def _chunks(shown: Sequence[Network]) -> Iterator[list[Network]]:
    """Yield the networks in chunks that fit into a picture."""
    chunk: list[Network] = []
    for network in shown:
        if chunk and sum(len(other.variants) for other in (*chunk, network)) > ROWS:
            yield chunk
            chunk = []
        chunk.append(network)
    yield chunk


def _whiskers(group: Group, *, samples: bool = True) -> str:
    if group.seeds > 1:
        return f"; whiskers: ± std over {group.seeds} seeds"
    texts = ["95 % interval of accuracy"] if group.quality == "accuracy" else []
    texts += ["10 % to 90 % of the samples of latency"] if samples else []
    return f"; whiskers: {', '.join(texts)}" if texts else ""


def _unnumbered(group: Group) -> str:
    """Return what the note says if networks are not told apart."""
    count = len(group.networks)
    return f"; {count} networks" if count > 1 and not group.numbered else ""


def _free(text: str, taken: Container[str]) -> str:
    """Return a file name for a picture that no other one has."""
    stem, number = file_name(text), 1
    while (file := f"{stem}-{number}.png" if number > 1 else f"{stem}.png") in taken:
        number += 1
    return file


def file_name(text: str) -> str:
    """Return a file name that cannot lead out of its folder, whatever the text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "picture"

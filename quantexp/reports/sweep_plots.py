"""Pictures of a sweep, one question each; each says by itself what it shows, of which task and measured how.

A method has one colour and marker in every picture, and a variant of it (another precision or engine) another
filling. Where a sweep varies the network, each network has a number, which stands in the markers and in the key.
What was measured in another setup (machine, protocol, threads) has a picture of its own.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantexp.analysis.variants import Network, Setup, Variant, networks, place_names, settings_text
from quantexp.reports.style import (
    COMPILED,
    FLOAT,
    FOOT,
    HEAD,
    LETTER,
    QUANTIZED,
    SMALL,
    WIDTH,
    Role,
    lay_out,
    literal,
    page,
    png,
    styled,
)
from quantexp.reports.sweep_marks import (
    Look,
    accuracy_dots,
    accuracy_value,
    batch_axis,
    draw_latencies,
    draw_points,
    draw_speedups,
    exact,
    latency_value,
    size_bars,
    size_value,
    speedup_bars,
    speedup_value,
)
from quantexp.results.sweep import SweepResult
from quantexp.results.text import threads_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROLES = {
    "none": FLOAT,
    "dynamic": Role("#0072B2", "s", "-"),
    "static": QUANTIZED,
    "qat": Role("#009E73", "^", "-"),
    "amp": Role("#CC79A7", "v", "-"),
}
MORE_ROLES = (Role("#E69F00", "P", "-"), Role(COMPILED.colour, "X", "-"), Role("#F0E442", "h", "-"))
HEADING: dict[str, Any] = {"textcoords": "offset points", "va": "center", "size": SMALL, "weight": "bold"}
FILLINGS = (("full", "-"), ("none", "--"), ("left", ":"), ("bottom", "-."))
ROWS = 12  # bars that a picture holds at most, unless one network has more
FEW = 8  # networks; the key of more is written smaller
LONGEST = 28  # characters of a method's name beside its bars
PANELS = 3  # rows of panels that a picture holds at most


@dataclass(frozen=True)
class Picture:
    """A drawn picture: the name of its file, what it says in words, and PNG."""

    file: str
    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Group:
    """The networks of one task and setup, which a picture shows together."""

    networks: tuple[Network, ...]
    looks: Mapping[str, Look]
    subtitle: str

    @property
    def variants(self) -> list[tuple[int, Variant]]:
        """Every variant with the number of its network, 0 where there is only one."""
        numbered = len(self.networks) > 1
        return [(numbered * at, one) for at, network in enumerate(self.networks, 1) for one in network.variants]

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that were measured."""
        return sorted({size for network in self.networks for size in network.sizes})

    @property
    def ends(self) -> list[int]:
        """The smallest batch size and the largest."""
        return sorted({self.sizes[0], self.sizes[-1]}) if self.sizes else []

    @property
    def seeds(self) -> int:
        """The most seeds that a variant has."""
        return max(len(one.reports) for _, one in self.variants)


def pictures(sweep: SweepResult) -> dict[str, bytes]:
    """Return the pictures of a sweep as PNG by file name; those that it has no figures for are left out."""
    return {one.file: one.png for one in drawn(sweep)}


def drawn(sweep: SweepResult) -> list[Picture]:
    """Return the pictures of a sweep with what they say."""
    found = []
    with styled():
        for file, figure in figures(sweep).items():
            title, subtitle, note = (text.get_text() for text in figure.texts[:3])
            found.append(Picture(file, title, f"{subtitle} ({note})", png(figure)))
    return found


def figures(sweep: SweepResult) -> dict[str, Figure]:
    """Return the pictures of a sweep before they are drawn, by file name."""
    pages: dict[str, Callable[[Group], Iterator[Figure]]] = {
        "accuracy-latency": accuracy_latency_figures,
        "size-accuracy": size_accuracy_figures,
        "batch-sizes": batch_size_figures,
        "methods": method_figures,
        "flops": flops_figures,
    }
    by_task: dict[str, list[Group]] = defaultdict(list)
    for group in groups(sweep):
        by_task[group.networks[0].task].append(group)
    named: dict[str, Figure] = {}
    for task, ones in by_task.items():
        first: dict[tuple[str, str], Group] = {}
        for group in ones:
            first.setdefault(group.networks[0].setup.place, group)
        for kind, draw in pages.items():
            # Size and accuracy depend on the machine alone; what depends on more stands side by side.
            for group in first.values() if draw is size_accuracy_figures else ones:
                for figure in draw(group):
                    stem, number = _file_name(f"{kind}-{task}"), 1
                    while (file := f"{stem}-{number}.png" if number > 1 else f"{stem}.png") in named:
                        number += 1
                    named[file] = figure
    return named


def groups(sweep: SweepResult) -> list[Group]:
    """Return what is drawn together: the networks of each task and setup, of which something can be compared."""
    found: dict[tuple[str, Setup], list[Network]] = defaultdict(list)
    for network in networks(sweep):
        found[network.task, network.setup].append(network)
    places = place_names([setup for _, setup in found])
    looks = _looks([one for ones in found.values() for network in ones for one in network.variants])
    made = []
    for (task, setup), ones in found.items():
        measured = ", ".join([setup.protocol, threads_text(setup.threads), places[setup.place]])
        settings = settings_text(setup.settings) + (f"; {settings_text(ones[0].settings)}" if len(ones) == 1 else "")
        text = "; ".join(part for part in (task, measured, settings.strip("; ")) if part)
        made.append(Group(tuple(ones), looks, literal(text)))
    return [group for group in made if len(group.variants) > 1]


def accuracy_latency_figures(group: Group) -> Iterator[Figure]:
    """Show accuracy against latency at the smallest and the largest batch size, with the Pareto front."""
    if not group.ends:
        return
    note = f"line and rims: Pareto front; whiskers: {_whiskers(group)}"
    figure = _page(group, "Accuracy against latency", note, height=4.7)
    grid = figure.subplots(1, len(group.ends), squeeze=False, sharey=True)[0]
    for axes, size in zip(grid, group.ends, strict=True):
        points = [
            (number, one, latency_value(one, size), accuracy_value(one))
            for number, one in group.variants
            if one.latencies(size)
        ]
        draw_points(axes, points, group.looks, front=True)
        axes.set_xlabel(f"latency at batch {size} (ms)")
    grid[0].set_ylabel("accuracy (%)")
    yield figure


def size_accuracy_figures(group: Group) -> Iterator[Figure]:
    """Show accuracy against the size of the saved file, with the Pareto front."""
    note = f"line and rims: Pareto front; whiskers: {_whiskers(group, samples=False)}"
    figure = _page(group, "Accuracy against size", note, height=4.7)
    axes = figure.subplots()
    points = [(number, one, size_value(one), accuracy_value(one)) for number, one in group.variants]
    draw_points(axes, points, group.looks, front=True)
    axes.set_xlabel("size of the saved state dict (MB)")
    axes.set_ylabel("accuracy (%)")
    yield figure


def batch_size_figures(group: Group) -> Iterator[Figure]:
    """Show latency and speedup against batch size, a row a network."""
    if len(group.sizes) < 2 or (len(group.sizes) == 2 and len(group.networks) > PANELS):
        return  # two sizes of many networks are shown by the bars
    for start in range(0, len(group.networks), PANELS):
        shown = group.networks[start : start + PANELS]
        spread = f"± std over {group.seeds} seeds" if group.seeds > 1 else "10 % to 90 % of the samples"
        note = f"left: median, whiskers {spread}; right: whiskers 95 % interval"
        figure = _page(group, "Latency and speedup by batch size", note, height=1.3 + 3.3 * len(shown), numbers=False)
        grid = figure.subplots(len(shown), 2, squeeze=False)
        for (left, right), network in zip(grid, shown, strict=True):
            draw_latencies(left, network, group.looks)
            draw_speedups(right, network, group.looks)
            if len(group.networks) > 1:
                left.set_title(literal(_cut(settings_text(network.settings), 60)), loc="left", size=SMALL)
            for axes in (left, right):
                batch_axis(axes, group.sizes)
        for axes in grid[-1]:
            axes.set_xlabel("batch size")
        yield figure


def method_figures(group: Group) -> Iterator[Figure]:
    """Show each method's speedup, size and accuracy as bars and points with their intervals."""
    if not group.sizes:
        return
    for shown in _chunks(group.networks):
        rows = [(network, one) for network in shown for one in network.variants]
        interval = f"Student's t over {group.seeds} seeds" if group.seeds > 1 else "95 % interval"
        note = f"whiskers: {interval}; beside accuracies: points against float, in bold where it can be told"
        panels = math.ceil((len(group.ends) + 2) / 2)
        gaps = 0.45 * (len(shown) - 1) if len(group.networks) > 1 else 0
        height = HEAD + FOOT + 0.2 + panels * (1.0 + 0.42 * len(rows) + gaps)
        figure = page("The methods side by side", group.subtitle, note, height=height)
        grid = figure.subplots(panels, 2, squeeze=False, sharey=True)
        places, titles = _places(shown, titled=len(group.networks) > 1)
        cells = iter(grid.flat)
        for size in group.ends:
            speedup_bars(next(cells), rows, places, group.looks, size)
        size_bars(next(cells), rows, places, group.looks)
        accuracy_dots(next(cells), rows, places, group.looks)
        for axes in cells:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_yticks(places, [literal(_cut(one.method, LONGEST)) for _, one in rows], size=SMALL)
            axes.set_ylim(max(places) + 0.6, min([*places, *(place for place, _ in titles)]) - 0.6)
            for place, title in titles:
                axes.annotate(title, (0, place), (4, 0), xycoords=("axes fraction", "data"), **HEADING)
        for axes in grid.flat:
            axes.tick_params(axis="y", length=0)
        yield figure


def flops_figures(group: Group) -> Iterator[Figure]:
    """Show accuracy, FLOPs and latency against each other, where networks differ in their FLOPs."""
    if len({network.flops for network in group.networks}) < 2:
        return
    for size in group.ends:
        note = f"a line a method, from fewer FLOPs to more; whiskers: {_whiskers(group)}"
        figure = _page(group, f"Accuracy, FLOPs and latency at batch {size}", note, height=8.0)
        grid = figure.subplots(2, 2)
        order = sorted(enumerate(group.networks, 1), key=lambda numbered: numbered[1].flops)
        triples = [
            (number, one, exact(network.flops / 1e6), latency_value(one, size), accuracy_value(one))
            for number, network in order
            for one in network.variants
            if one.latencies(size)
        ]
        draw_points(grid[0, 0], [(n, one, cost, right) for n, one, cost, _, right in triples], group.looks, joined=True)
        draw_points(grid[0, 1], [(n, one, cost, ms) for n, one, cost, ms, _ in triples], group.looks, joined=True)
        draw_points(grid[1, 0], [(n, one, ms, right) for n, one, _, ms, right in triples], group.looks, joined=True)
        ratios = [(n, one, cost, ratio) for n, one, cost, _, _ in triples if (ratio := speedup_value(one, size))]
        draw_points(grid[1, 1], ratios, group.looks, joined=True)
        named = (
            (grid[0, 0], "MFLOPs an example", "accuracy (%)"),
            (grid[0, 1], "MFLOPs an example", "latency (ms)"),
            (grid[1, 0], "latency (ms)", "accuracy (%)"),
            (grid[1, 1], "MFLOPs an example", "times as fast as float"),
        )
        for axes, x, y in named:
            axes.set_xlabel(x)
            axes.set_ylabel(y)
        yield figure


# The page


def _places(shown: Sequence[Network], *, titled: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """Return where each bar stands, and where the name of each network above its bars."""
    places: list[float] = []
    titles: list[tuple[float, str]] = []
    at = 0.0
    for network in shown:
        if titled:
            titles.append((at, literal(_cut(settings_text(network.settings), 60))))
            at += 0.9
        places += [at + row for row in range(len(network.variants))]
        at += len(network.variants) + 0.2
    return places, titles


def _chunks(shown: Sequence[Network]) -> Iterator[list[Network]]:
    """Yield as many networks at a time as a picture has room for."""
    chunk: list[Network] = []
    for network in shown:
        if chunk and sum(len(one.variants) for one in (*chunk, network)) > ROWS:
            yield chunk
            chunk = []
        chunk.append(network)
    yield chunk


def _whiskers(group: Group, *, samples: bool = True) -> str:
    if group.seeds > 1:
        return f"± std over {group.seeds} seeds"
    return f"95 % interval of accuracy{', 10 % to 90 % of the samples of latency' * samples}"


def _looks(every: Sequence[Variant]) -> dict[str, Look]:
    """Choose a look for each method: the role of its kind, and a filling for each of its variants."""
    more = iter(MORE_ROLES)
    roles = dict(ROLES)
    seen: dict[str, list[str]] = defaultdict(list)
    looks = {}
    for one in every:
        if one.method in looks:
            continue
        if one.quant not in roles:
            roles[one.quant] = next(more, FLOAT)
        filling, line = FILLINGS[len(seen[one.quant]) % len(FILLINGS)]
        seen[one.quant].append(one.method)
        looks[one.method] = Look(roles[one.quant], filling, line)
    return looks


def _page(group: Group, title: str, note: str, *, height: float, numbers: bool = True) -> Figure:
    """Return a page with room for axes of `height` inches under the key.

    The key says which marker is which method, and which number which network.
    """
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(one.method for _, one in group.variants))
    columns = max(1, int((WIDTH - 0.3) / (0.75 + LETTER * SMALL / 72 * max(len(_cut(name, 30)) for name in names))))
    numbered = enumerate(group.networks, 1) if numbers and len(group.networks) > 1 else ()
    texts = [literal(f"{at}: {settings_text(one.settings)}") for at, one in numbered]
    size = SMALL if len(texts) <= FEW else SMALL - 2
    texts = [_cut(text, int((WIDTH - 0.3) * 72 / (LETTER * size))) for text in texts]
    column = LETTER * size / 72 * (max(map(len, texts), default=0) + 2)
    beside = max(1, int((WIDTH - 0.3) / column)) if texts else 1
    lines = math.ceil(len(texts) / beside)
    below = HEAD + 0.14 + 0.25 * math.ceil(len(names) / columns)  # inches from the top: the end of the methods
    head = below + 0.21 * lines + 0.05 * bool(lines)
    figure = page(title, group.subtitle, note, height=head + height + FOOT)
    full = figure.get_figheight()
    look: dict[str, Any] = {"markersize": 9, "linewidth": 1.8}
    key = [
        Line2D([], [], label=literal(_cut(name, 30)), **(one.marker | look | {"linestyle": one.line}))
        for name, one in ((name, group.looks[name]) for name in names)
    ]
    corner = (0.1 / WIDTH, 1 - (HEAD + 0.04) / full)
    figure.legend(handles=key, loc="upper left", bbox_to_anchor=corner, ncols=columns, fontsize=SMALL, borderaxespad=0)
    for at, text in enumerate(texts):  # down the columns
        left, top = 0.15 + column * (at // lines), below + 0.21 * (at % lines)
        figure.text(left / WIDTH, 1 - top / full, text, va="top", size=size)
    lay_out(figure, head)
    return figure


def _file_name(text: str) -> str:
    """Return a file name that no text can lead out of its folder."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "picture"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."

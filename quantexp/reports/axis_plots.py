"""Pictures of a sweep over a number: latency over the size of the inputs, and quality over the number of bits.

Each picture has a panel for every network of the sweep, also those of different tasks, and belongs to one setup.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantexp.analysis.names import place_names
from quantexp.analysis.settings import Settings, settings_text
from quantexp.analysis.values import Value, latency_value, quality_value, speedup_value
from quantexp.analysis.variants import Network, Setup, Variant, networks
from quantexp.reports.style import COMPILED, FLOAT, QUANTIZED, SMALL, literal
from quantexp.reports.sweep_groups import FILLINGS, ROLES, Look, cut, legend_page, looks_of, measured_text
from quantexp.reports.sweep_marks import draw_line, scale
from quantexp.results.sweep import SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INPUT_SIZES = {
    "task.size": "side of the images (pixels)",
    "task.crop": "side of the images (pixels)",
    "task.length": "tokens",
    "task.seconds": "sound (seconds)",
}
BITS = {"quant.weight_bits": "bits of weights", "quant.activation_bits": "bits of activations"}
ROUNDED, TRAINED = "rounded after training", "trained with rounding"
ROWS = 3  # of panels in a picture
MOST = 12  # networks with a panel in all pictures of a kind
TITLE = 34  # characters of a panel's title
Points = list[tuple[float, Value]]


@dataclass(frozen=True)
class Series:
    """A network whose input size varies: its title, the label of the axis, and the networks by input size."""

    title: str
    label: str
    networks: tuple[tuple[float, Network], ...]


def axis_figures(sweep: SweepResult) -> Iterator[tuple[str, Figure]]:
    """Yield the figures, before they are drawn, with their names."""
    by_setup: dict[Setup, list[Network]] = defaultdict(list)
    for network in networks(sweep):
        by_setup[network.setup].append(network)
    places = place_names(list(by_setup))
    for setup, alike in by_setup.items():
        subtitle = literal(measured_text(alike, places[setup.place]))
        yield from (("input-sizes", figure) for figure in _input_size_figures(alike, subtitle))
    by_place: dict[tuple[str, str], list[Network]] = defaultdict(list)
    for network in (network for alike in by_setup.values() for network in alike):
        by_place[network.setup.place].append(network)  # accuracy does not depend on how latency is measured
    for place, alike in by_place.items():
        yield from (("bits", figure) for figure in _bit_figures(alike, literal(places[place])))


def _input_size_figures(alike: Sequence[Network], subtitle: str) -> Iterator[Figure]:
    """Plot latency and speedup at the smallest batch size over the size of the inputs, a row for each network."""
    every = [one for name, label in INPUT_SIZES.items() for one in _over_inputs(alike, name, label)]
    if not every:
        return
    looks = looks_of(variant for one in every for _, network in one.networks for variant in network.variants)
    left = f"; {MOST} of {len(every):,} networks" if len(every) > MOST else ""
    for start in range(0, min(len(every), MOST), ROWS):
        shown = every[start : start + ROWS]
        batch = min(size for one in shown for _, network in one.networks for size in network.sizes)
        title, note = f"Latency by input size, batch {batch}", f"left: median, 10 % to 90 %; right: 95 % interval{left}"
        present = {variant.method for one in shown for _, network in one.networks for variant in network.variants}
        found = {name: look for name, look in looks.items() if name in present}
        figure = legend_page(title, subtitle, note, found, height=1.0 + 2.9 * len(shown))
        grid = figure.subplots(len(shown), 2, squeeze=False)
        for (left, right), one in zip(grid, shown, strict=True):
            left.set_title(literal(cut(one.title, TITLE)), loc="left", size=SMALL)
            _draw(left, _latencies(one, batch), looks)
            right.axhline(1, color=FLOAT.colour, linewidth=2)
            _draw(right, _speedups(one, batch), looks, also=1.0)
            left.set_ylabel("latency (ms)")
            right.set_ylabel("speedup over float")
            for axes in (left, right):
                axes.set_xlabel(one.label)
                axes.set_xticks([x for x, _ in one.networks], [f"{x:g}" for x, _ in one.networks])
                axes.set_xlim(0, 1.08 * one.networks[-1][0])
        yield figure


def _bit_figures(alike: Sequence[Network], place: str) -> Iterator[Figure]:
    """Plot quality over the number of bits, a panel for each network and a line for each other setting."""
    for (name, label), labelled in itertools.product(BITS.items(), (True, False)):
        shown = [network for network in alike if network.labelled is labelled]
        panels = [(network, lines) for network in shown if (lines := _over_bits(network, name))]
        if not panels:
            continue
        left = f"; {MOST} of {len(panels):,} networks" if len(panels) > MOST else ""
        panels = panels[:MOST]
        names = list(dict.fromkeys(line for _, lines in panels for line in lines))
        looks = {line: _bit_look(at) for at, line in enumerate(names)}
        quality = "accuracy" if labelled else "agreement"
        seeds = max(len(variant.reports) for network, _ in panels for variant in network.variants)
        whiskers = "; whiskers: 95 % interval" * labelled
        if seeds > 1:
            whiskers = f"; whiskers: ± std over {seeds} seeds"
        rows = math.ceil(len(panels) / 2)
        figure = legend_page(
            f"{quality.capitalize()} over {label}",
            place,
            f"simulated in float{whiskers}{left}",
            {"float": Look(FLOAT, "full", "-"), **looks},
            height=1.0 + 3.4 * rows,
        )
        grid = [axes for row in figure.subplots(rows, 2, squeeze=False) for axes in row]
        for axes, (network, lines) in zip(grid, panels, strict=False):
            floats = [variant for variant in network.variants if variant.is_float]
            height = quality_value(floats[0]).value if floats and labelled else 100.0
            axes.axhline(height, color=FLOAT.colour, linewidth=2)
            _draw(axes, lines, looks, logarithmic=False)
            title = ", ".join(text for text in (network.task, settings_text(network.settings)) if text)
            axes.set_title(literal(cut(title, TITLE)), loc="left", size=SMALL)
            axes.set_xlabel(label)
            axes.set_ylabel(f"{quality} (%)")
            counts = sorted({x for points in lines.values() for x, _ in points})
            axes.set_xticks(counts, [f"{x:g}" for x in counts])
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        yield figure


def _over_inputs(alike: Sequence[Network], name: str, label: str) -> Iterator[Series]:
    """Yield the networks whose input size `name` takes several values, in the order of these."""
    grouped: dict[tuple[str, Settings], dict[float, Network]] = defaultdict(dict)
    for network in alike:
        value, rest = _without(network.settings, name)
        if value is not None and network.sizes:
            grouped[network.task, rest][value] = network
    for (task, rest), found in grouped.items():
        if len(found) > 1:
            title = ", ".join(text for text in (task, settings_text(rest)) if text)
            yield Series(title, label, tuple(sorted(found.items(), key=lambda pair: pair[0])))


def _over_bits(network: Network, name: str) -> dict[str, Points]:
    """Return the qualities over the bits `name`, a line for each other setting; none if the bits do not vary."""
    lines: dict[str, Points] = defaultdict(list)
    for variant in network.quantized:
        bits, rest = _without(variant.settings, name)
        if bits is not None:
            lines[_line_name(rest, network)].append((bits, quality_value(variant)))
    return {line: sorted(points, key=lambda point: point[0]) for line, points in lines.items() if len(points) > 1}


def _line_name(settings: Settings, network: Network) -> str:
    """Return what distinguishes a line: how the rounding was reached, and the other settings of the method."""
    own = [pair for pair in settings if pair not in network.settings]
    others = settings_text(tuple(pair for pair in own if pair[0] != "quant.train"))
    reached = TRAINED if ("quant.train", "True") in own else ROUNDED
    return f"{reached}, {others}" if others else reached


def _without(settings: Settings, name: str) -> tuple[float | None, Settings]:
    """Return a setting as a number, None if it is none or not there, and the other settings."""
    value = dict(settings).get(name)
    rest = tuple(pair for pair in settings if pair[0] != name)
    try:
        return (None if value is None else float(value)), rest
    except ValueError:
        return None, rest


def _latencies(one: Series, batch: int) -> dict[str, Points]:
    lines: dict[str, Points] = defaultdict(list)
    for x, variant in _variants(one):
        if variant.latencies(batch):
            lines[variant.method].append((x, latency_value(variant, batch)))
    return lines


def _speedups(one: Series, batch: int) -> dict[str, Points]:
    lines: dict[str, Points] = defaultdict(list)
    for x, variant in _variants(one):
        if not variant.is_float and (value := speedup_value(variant, batch)):
            lines[variant.method].append((x, value))
    return lines


def _variants(one: Series) -> Iterable[tuple[float, Variant]]:
    return ((x, variant) for x, network in one.networks for variant in network.variants)


def _draw(
    axes: Axes, lines: Mapping[str, Points], looks: Mapping[str, Look], *, logarithmic: bool = True, also: float = 0.0
) -> None:
    """Draw a line for each name; a vertical axis with a wide range may be logarithmic."""
    for name, points in lines.items():
        draw_line(axes, 1.0, points, looks[name])
    values = [value for points in lines.values() for _, at in points for value in (at.value, at.low, at.high)]
    if logarithmic and values:
        scale(axes, "y", [*values, *([also] if also else [])])
    axes.grid()


def _bit_look(at: int) -> Look:
    """Return the look of a line: one colour for each, as variants of one method are what is compared."""
    roles = (QUANTIZED, ROLES["qat"], COMPILED)
    filling, line = FILLINGS[at // len(roles) % len(FILLINGS)]
    return Look(roles[at % len(roles)], filling, line)

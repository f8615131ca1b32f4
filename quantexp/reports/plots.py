"""The pictures of a run, one question each, legible at full size and as a thumbnail.

Each is a function from the report to a figure, or to None if the report lacks what it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from quantexp.reports.bar_plots import size_figure, time_figure
from quantexp.reports.latency_plots import latency_figure, ratios_figure
from quantexp.reports.layer_plots import layers_figure
from quantexp.reports.style import png, styled
from quantexp.results import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pictures(report: Report) -> dict[str, bytes]:
    """Return the pictures of a run as PNG by file name, without those that have nothing to show."""
    with styled():
        return {name: png(figure) for name, figure in figures(report).items()}


def figures(report: Report) -> dict[str, Figure]:
    """Return the figures of a run, before they are drawn, by file name."""
    pages: dict[str, Callable[[Report], Figure | None]] = {
        "latency.png": latency_figure,
        "ratios.png": ratios_figure,
        "size.png": size_figure,
        "time.png": time_figure,
        "layers.png": layers_figure,
    }
    return {name: figure for name, draw in pages.items() if (figure := draw(report)) is not None}

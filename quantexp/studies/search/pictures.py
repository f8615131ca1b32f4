"""Pictures of the study `search`: the criterion vs latency and vs size, with bound and Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quantexp.config import Criterion
from quantexp.reports.style import FAINT, FLOAT, INK, literal, page, png, styled
from quantexp.reports.sweep_groups import ROLES
from quantexp.reports.sweep_marks import front_line
from quantexp.studies.criteria import AXES, FILES, NAMES, value
from quantexp.studies.search.findings import Candidate, SearchReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STAR = "#F0E442"
MARKERS = ("o", "D", "s", "^", "v", "P", "X")  # of the runtimes


def pictures(report: SearchReport) -> dict[str, bytes]:
    """Return the pictures as PNG by file name."""
    name = FILES[report.goal.criterion]
    with styled():
        return {
            f"{name}_by_latency.png": png(latency_figure(report)),
            f"{name}_by_size.png": png(size_figure(report)),
        }


def latency_figure(report: SearchReport) -> Figure:
    """Plot the criterion vs the latency relative to float, at the batch size of the goal."""
    size = report.goal.batch_size
    costs = [100 / candidate.speedups[size].ratio for candidate in report.candidates]
    reference = "float in eager execution" if report.several else "float"
    return _figure(report, "latency", costs, f"latency at batch {size} (% of {reference})")


def size_figure(report: SearchReport) -> Figure:
    """Plot the criterion vs the size."""
    costs = [candidate.size_mb for candidate in report.candidates]
    return _figure(report, "size", costs, "size of the saved state dict (MB)")


def _figure(report: SearchReport, what: str, every_cost: Sequence[float], label: str) -> Figure:
    run, criterion = report.reports[0], report.goal.criterion
    split = "validation" if report.labelled else "random"
    subtitle = f"{run.network_name}: {len(report.tried)} variants on {run.data.evaluated:,} {split} examples"
    note = "line and outlined markers: Pareto front; star: the answer; shaded, hollow: bound missed"
    if criterion is Criterion.accuracy:
        note = f"points vs float; {note}"
    every = zip(every_cost, report.candidates, strict=True)
    points = [(cost, value(criterion, candidate.comparison) + 0.0, candidate) for cost, candidate in every]
    shown = [point for point in points if math.isfinite(point[1])]
    if len(shown) < len(points):
        note = f"not drawn: float, whose SQNR is infinite; {note}"
    name = NAMES[criterion]
    figure = page(f"{name[0].upper()}{name[1:]} vs {what}", literal(subtitle), note, height=5.6)
    axes = figure.subplots()
    costs, gains = [cost for cost, _, _ in shown], [gain for _, gain, _ in shown]
    front = front_line(axes, list(zip(costs, gains, strict=True)))
    if front:  # the front continues to the right
        most = front[-1]
        axes.plot((costs[most], max(costs)), (gains[most],) * 2, color=INK, linewidth=2, zorder=2)
    for at, (cost, gain, candidate) in enumerate(shown):
        if candidate is report.answer:
            axes.plot(cost, gain, marker="*", markersize=32, color=STAR, markeredgecolor=INK, zorder=3)
        within = report.goal.met_by(candidate)
        look = _look(report, candidate) | ({} if within else {"markerfacecolor": "white"})
        rim = INK if at in front else "white" if within else look["color"]
        axes.plot(cost, gain, linestyle="", zorder=4 + (at in front), markeredgecolor=rim, **look)
    bound = _bound(report)
    _limits(axes, costs, [*gains, bound])
    axes.axhline(bound, color=INK, linewidth=1.2, linestyle="--")
    axes.axhspan(axes.get_ylim()[0], bound, color=FAINT, alpha=0.6, zorder=0)
    axes.set_xlabel(label)
    axes.set_ylabel(AXES[criterion])
    axes.grid()
    columns = 3 if report.several else 5
    axes.legend(handles=_key(report), loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.1)
    return figure


def _bound(report: SearchReport) -> float:
    """Return the position of the bound on the axis of the criterion."""
    criterion, limit = report.goal.criterion, report.goal.limit
    if criterion is Criterion.accuracy:
        return -100 * limit
    return 100 * limit if criterion is Criterion.agreement else limit


def _look(report: SearchReport, candidate: Candidate) -> dict[str, Any]:
    """Return the look of a candidate: its method has the colour, and the marker unless runtimes are compared."""
    role = ROLES.get(candidate.choice.method, FLOAT)
    marker = MARKERS[report.runtimes.index(candidate.choice.runtime)] if report.several else role.marker
    return {"marker": marker, "color": role.colour, "markersize": 11, "markeredgewidth": 1.8}


def _key(report: SearchReport) -> list[Any]:
    from matplotlib.lines import Line2D

    by_name = {_label(report, candidate): _look(report, candidate) for candidate in report.candidates}
    key = [Line2D([], [], linestyle="", label=name, **look) for name, look in by_name.items()]
    sign = "+z" if report.goal.criterion is Criterion.accuracy else ""
    bound = f"bound: {_bound(report):{sign}.2f}"
    return [*key, Line2D([], [], color=INK, linewidth=1.2, linestyle="--", label=bound)]


def _label(report: SearchReport, candidate: Candidate) -> str:
    return f"{candidate.choice.method}{f' in {candidate.choice.runtime}' * report.several}"


def _limits(axes: Axes, costs: Sequence[float], heights: Sequence[float]) -> None:
    for values, limits in ((costs or [1.0], axes.set_xlim), (heights, axes.set_ylim)):
        low, high = min(values), max(values)
        pad = 0.1 * (high - low) or 0.1 * abs(high) or 1
        limits(low - pad, high + pad)

"""Pictures of the study `search`: accuracy against latency and against size, with the bound and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quantexp.reports.style import FAINT, FLOAT, INK, literal, page, png, styled
from quantexp.reports.sweep_marks import front_line
from quantexp.reports.sweep_plots import ROLES
from quantexp.studies.search.findings import Candidate, SearchReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STAR = "#F0E442"


def pictures(report: SearchReport) -> dict[str, bytes]:
    """Return the pictures as PNG by file name."""
    with styled():
        return {
            "accuracy_by_latency.png": png(latency_figure(report)),
            "accuracy_by_size.png": png(size_figure(report)),
        }


def latency_figure(report: SearchReport) -> Figure:
    """Show the accuracy change against the latency as a share of float's, at the batch size that counts."""
    size = report.goal.batch_size
    costs = [100 / one.speedups[size] for one in report.candidates]
    return _figure(report, "Accuracy against latency", costs, f"latency at batch {size} (% of float's)")


def size_figure(report: SearchReport) -> Figure:
    """Show the accuracy change against the size."""
    costs = [one.size_mb for one in report.candidates]
    return _figure(report, "Accuracy against size", costs, "size of the saved state dict (MB)")


def _figure(report: SearchReport, title: str, costs: Sequence[float], label: str) -> Figure:
    run = next(one.report for one in report.tried if one.report)
    subtitle = f"{run.network_name}: {len(report.tried)} variants on {run.data.evaluated:,} validation examples"
    note = "points against float; line and rims: Pareto front; star: the answer; shaded and hollow: beyond the bound"
    figure = page(title, literal(subtitle), note, height=5.6)
    axes = figure.subplots()
    gains = [-100 * one.accuracy_drop + 0.0 for one in report.candidates]
    front = front_line(axes, list(zip(costs, gains, strict=True)))
    most = front[-1]
    axes.plot(
        (costs[most], max(costs)), (gains[most],) * 2, color=INK, linewidth=2, zorder=2
    )  # what costs more gains no more
    for at, one in enumerate(report.candidates):
        if one is report.answer:
            axes.plot(costs[at], gains[at], marker="*", markersize=32, color=STAR, markeredgecolor=INK, zorder=3)
        within = report.goal.met_by(one)
        look = _look(one) | ({} if within else {"markerfacecolor": "white"})
        rim = INK if at in front else "white" if within else look["color"]
        axes.plot(costs[at], gains[at], linestyle="", zorder=4 + (at in front), markeredgecolor=rim, **look)
    bound = -100 * report.goal.max_accuracy_drop
    _limits(axes, costs, [*gains, bound])
    axes.axhline(bound, color=INK, linewidth=1.2, linestyle="--")
    axes.axhspan(axes.get_ylim()[0], bound, color=FAINT, alpha=0.6, zorder=0)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy change (points)")
    axes.grid()
    axes.legend(handles=_key(report), loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderaxespad=0.1)
    return figure


def _look(one: Candidate) -> dict[str, Any]:
    role = ROLES.get(one.choice.method, FLOAT)
    return {"marker": role.marker, "color": role.colour, "markersize": 11, "markeredgewidth": 1.8}


def _key(report: SearchReport) -> list[Any]:
    from matplotlib.lines import Line2D

    by_method = {one.choice.method: _look(one) for one in report.candidates}
    key = [Line2D([], [], linestyle="", label=method, **look) for method, look in by_method.items()]
    bound = f"bound: {-100 * report.goal.max_accuracy_drop:+z.2f}"
    return [*key, Line2D([], [], color=INK, linewidth=1.2, linestyle="--", label=bound)]


def _limits(axes: Axes, costs: Sequence[float], heights: Sequence[float]) -> None:
    for values, limits in ((costs, axes.set_xlim), (heights, axes.set_ylim)):
        low, high = min(values), max(values)
        pad = 0.1 * (high - low) or 0.1 * abs(high) or 1
        limits(low - pad, high + pad)

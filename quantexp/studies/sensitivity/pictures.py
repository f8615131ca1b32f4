"""Pictures of the study `sensitivity`: a row a part, the worst at the top, alone and all but it side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quantexp.reports.style import FAINT, FLOAT, FOOT, HEAD, INK, QUANTIZED, Role, literal, page, png, styled
from quantexp.results import Report
from quantexp.studies.sensitivity.findings import ALL_BUT, ALONE, SensitivityReport, compared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {ALONE: QUANTIZED, ALL_BUT: Role("#0072B2", "s", "-")}
APART = 0.16  # of a row, from its middle
ROW = 0.55  # inches
LONGEST = 28  # characters of a name


def pictures(report: SensitivityReport) -> dict[str, bytes]:
    """Return the pictures as PNG by file name."""
    with styled():
        return {
            "accuracy_by_layer.png": png(accuracy_figure(report)),
            "sqnr_by_layer.png": png(sqnr_figure(report)),
        }


def accuracy_figure(report: SensitivityReport) -> Figure:
    """Show what each part costs in accuracy when it is quantized alone, and what all others cost without it."""
    split = report.whole.data.evaluation
    note = f"points of accuracy on the {split} split against float; sorted by what is lost alone"
    return _figure(
        report, "Accuracy change by layer", note, "accuracy change (points)", accuracy_change, float_line=True
    )


def sqnr_figure(report: SensitivityReport) -> Figure:
    """Show how far the outputs are from those of the float model: more decibels are better."""
    note = "energy of the float logits over that of their change; each 6 dB halve the error; order of the other picture"
    return _figure(report, "Output SQNR by layer", note, "output SQNR (dB), more is better", sqnr)


def accuracy_change(run: Report) -> float:
    """Return the change in points."""
    return -100 * compared(run).accuracy_drop


def sqnr(run: Report) -> float | None:
    """Return the output SQNR in dB, None where outputs are equal."""
    return compared(run).output_sqnr_db


def _figure(
    report: SensitivityReport,
    title: str,
    note: str,
    label: str,
    value: Callable[[Report], float | None],
    *,
    float_line: bool = False,
) -> Figure:
    whole = report.whole
    subtitle = f"{whole.network_name}: {whole.quant} {whole.precision}"
    figure = page(title, literal(subtitle), note, height=HEAD + FOOT + 1.3 + ROW * len(report.parts))
    axes = figure.subplots()
    names = [part.name if len(part.name) <= LONGEST else f"...{part.name[3 - LONGEST :]}" for part in report.ranked]
    places = range(len(names))
    axes.set_yticks(places, [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    for border in places[1:]:
        axes.axhline(border - 0.5, color=FAINT, linewidth=1, zorder=0)
    if float_line:
        axes.axvline(0, color=FLOAT.colour, linewidth=1.5, label="float")
    if (all_layers := value(whole)) is not None:
        axes.axvline(all_layers, color=INK, linewidth=2, linestyle="--", label="all layers")
    for index, (kind, role) in enumerate(LOOKS.items()):
        runs = [(at, part.runs[index][1]) for at, part in enumerate(report.ranked)]
        points = [(at, found) for at, run in runs if run and (found := value(run)) is not None]
        _points(axes, points, (2 * index - 1) * APART, kind, role)
    axes.set_xlabel(label)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.1)
    return figure


def _points(axes: Axes, points: list[tuple[int, float]], apart: float, kind: str, role: Role) -> None:
    look: dict[str, Any] = {"color": role.colour, "marker": role.marker, "markersize": 10, "linestyle": "none"}
    axes.plot([found for _, found in points], [at + apart for at, _ in points], label=kind, **look)

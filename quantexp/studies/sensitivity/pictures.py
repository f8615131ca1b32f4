"""Pictures of the study `sensitivity`: a row per part, the most sensitive at the top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quantexp.config import Criterion
from quantexp.reports.style import FAINT, FLOAT, FOOT, HEAD, INK, QUANTIZED, Role, literal, page, png, styled
from quantexp.studies.criteria import AXES, FILES, compared, value
from quantexp.studies.sensitivity.findings import ALL_BUT, ALONE, SensitivityReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {ALONE: QUANTIZED, ALL_BUT: Role("#0072B2", "s", "-")}
APART = 0.16  # of a row, from its middle
ROW = 0.55  # inches
LONGEST = 28  # characters of a name
NOTES = {
    Criterion.accuracy: ("Accuracy change by layer", "points of accuracy on the {split} split vs float"),
    Criterion.agreement: ("Agreement by layer", "share of the examples with the same prediction as float"),
    Criterion.output_sqnr_db: (
        "Output SQNR by layer",
        "energy of float's outputs over the error's; 6 dB more halve the error",
    ),
}


def pictures(report: SensitivityReport) -> dict[str, bytes]:
    """Return the pictures as PNG by file name: accuracy (agreement without labels), SQNR, and the criterion."""
    labelled = compared(report.whole).quality is not None
    shown = [Criterion.accuracy if labelled else Criterion.agreement, Criterion.output_sqnr_db]
    with styled():
        return {
            f"{FILES[criterion]}_by_layer.png": png(part_figure(report, criterion))
            for criterion in dict.fromkeys([*shown, report.by])
        }


def part_figure(report: SensitivityReport, criterion: Criterion) -> Figure:
    """Plot a criterion per part: quantized alone, and all parts but it."""
    whole = report.whole
    title, note = NOTES[criterion]
    order = "sorted by loss when quantized alone" if criterion is report.by else "same order as the other picture"
    subtitle = f"{whole.network_name}: {whole.quant} {whole.precision}"
    height = HEAD + FOOT + 1.3 + ROW * len(report.parts)
    figure = page(title, literal(subtitle), f"{note.format(split=whole.data.evaluation)}; {order}", height=height)
    axes = figure.subplots()
    _rows(axes, [part.name for part in report.ranked])
    if criterion is Criterion.accuracy:
        axes.axvline(0, color=FLOAT.colour, linewidth=1.5, label="float")
    if math.isfinite(all_layers := value(criterion, compared(whole))):
        axes.axvline(all_layers, color=INK, linewidth=2, linestyle="--", label="all layers")
    for index, (kind, role) in enumerate(LOOKS.items()):
        runs = [(at, part.runs[index][1]) for at, part in enumerate(report.ranked)]
        points = [(at, found) for at, run in runs if run and math.isfinite(found := value(criterion, compared(run)))]
        _points(axes, points, (2 * index - 1) * APART, kind, role)
    axes.set_xlabel(AXES[criterion])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.1)
    return figure


def _rows(axes: Axes, names: Sequence[str]) -> None:
    shown = [name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}" for name in names]
    places = range(len(shown))
    axes.set_yticks(places, [literal(name) for name in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    for border in places[1:]:
        axes.axhline(border - 0.5, color=FAINT, linewidth=1, zorder=0)


def _points(axes: Axes, points: list[tuple[int, float]], apart: float, kind: str, role: Role) -> None:
    look: dict[str, Any] = {"color": role.colour, "marker": role.marker, "markersize": 10, "linestyle": "none"}
    axes.plot([found for _, found in points], [at + apart for at, _ in points], label=kind, **look)

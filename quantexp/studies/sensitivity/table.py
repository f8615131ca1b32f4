"""The table of the study `sensitivity`, the most sensitive part first, and advice on what to keep in float."""

from __future__ import annotations

from collections.abc import Iterator

from quantexp.config import Criterion
from quantexp.reports.cells import known, speedup_word
from quantexp.reports.findings import Findings
from quantexp.reports.notes import SIMULATED, variant_notes
from quantexp.reports.table import Table
from quantexp.results import Report
from quantexp.results.comparison import LOSS
from quantexp.results.text import flips_text, listed, p_text, points_text, size_text
from quantexp.studies.criteria import NAMES, compared, value_text
from quantexp.studies.sensitivity.findings import SensitivityReport, loss_change, metrics, variant_lines
from quantexp.studies.sensitivity.pictures import pictures


def findings(report: SensitivityReport) -> Findings:
    """Return the findings as they are shown and recorded."""
    return Findings(metrics(report), table(report), {"variants": variant_lines(report)}, pictures(report))


def table(report: SensitivityReport) -> Table:
    """Return a row per variant, the most sensitive part first; failed variants have empty cells."""
    sizes = [f"Speedup\nB{speedup.batch_size}" for speedup in compared(report.whole).speedups]
    figures = ("Accuracy\n(points)", "Examples", "Loss", "Agreement\n(%)", "SQNR\n(dB)")
    columns = (report.whole.network_name, "Quantized", *figures, *sizes, "Size\n(MB)")
    rows = [("all layers", "all", *_cells(report, report.whole))]
    for part in report.ranked:
        for index, (kind, run) in enumerate(part.runs):
            cells = _cells(report, run) if run else ("",) * (len(columns) - 2)
            rows.append((part.name if index == 0 else "", kind, *cells))
    return Table(columns, tuple(rows), tuple(_notes(report))).compact()


def advice(report: SensitivityReport) -> str:
    """Return advice on which parts to keep in float."""
    if report.by is not Criterion.accuracy:
        return _closest(report)
    whole, tested = compared(report.whole).quality, len(report.tested)
    how = f"exact McNemar test, 5 %{f' over {tested} tests' * (tested > 1)}"
    if found := report.to_keep:
        names = listed([recovery.part.name for recovery in found])
        exclude = _exclude(report, [recovery.part.layers for recovery in found])
        gains = (f"{kept.part.name} {points_text(kept.gain)} points ({p_text(kept.p_value)})" for kept in found)
        return f"Keep {names} in float ({exclude}). Gain over quantizing all layers: {listed(list(gains))}; {how}."
    if whole is None or whole.verdict != LOSS:
        return f"No layer causes a significant loss: quantize all layers ({how})."
    lost = f"All layers together lose {100 * whole.drop:.2f} points ({p_text(whole.p_value)})"
    if not tested:
        return f"{lost}, and without {listed([part.name for part in report.parts])} nothing is left to quantize."
    return f"{lost}, but leaving a single layer in float brings no significant gain ({how})."


def _closest(report: SensitivityReport) -> str:
    """Return which part left in float brings the outputs closest to float; there is no test for that."""
    whole = value_text(report.by, compared(report.whole))
    if report.closest is None:
        return f"All layers quantized: {whole}. Keeping a single layer in float brings the outputs no closer to float."
    part, run = report.closest
    found, exclude = value_text(report.by, compared(run)), _exclude(report, [part.layers])
    return f"Keeping {part.name} in float ({exclude}) brings the outputs closest to float: {found} instead of {whole}."


def _exclude(report: SensitivityReport, layers: list[tuple[str, ...]]) -> str:
    names = dict.fromkeys([*report.excluded, *(layer for of_part in layers for layer in of_part)])
    return f"quant.exclude=[{','.join(names)}]"


def _cells(report: SensitivityReport, run: Report) -> tuple[str, ...]:
    comparison, change = compared(run), loss_change(run)
    quality = comparison.quality
    same = "" if quality and report.by is not Criterion.agreement else f"{100 * comparison.agreement:.2f}"
    return (
        points_text(-quality.drop) if quality else "",
        flips_text(quality) if quality else "",
        "" if change is None else f"{change:+.4f}",
        same,
        known(comparison.output_sqnr_db, 1),
        *(speedup_word(speedup) for speedup in comparison.speedups),
        size_text(run.result.size_mb),
    )


def _notes(report: SensitivityReport) -> Iterator[str]:
    whole = report.whole
    quality, size = whole.baseline.quality, f"{size_text(whole.baseline.size_mb)} MB"
    yield advice(report)
    sqnr = "SQNR: energy of float's outputs over the error's."
    same = "Agreement: examples with the same prediction as float."
    if quality:
        yield (
            f"{whole.quant} {whole.precision} vs float ({100 * quality.value:.2f} %, {size}). Accuracy, Loss: change. "
            f"Examples: {whole.data.evaluation} examples that only quantized (+) or only float (-) gets right. {sqnr}"
        )
    else:
        yield f"{whole.quant} {whole.precision} vs float ({size}). {same} {sqnr}"
    if whole.precision == SIMULATED:
        yield "Simulated: rounded values, computed in float. Sizes are those of float, and nothing is timed."
    if quality and report.by is Criterion.agreement:
        yield same
    ties = "" if report.by is Criterion.output_sqnr_db else ", ties by output SQNR"
    yield f"Sorted by {NAMES[report.by]} when quantized alone{ties}."
    if grouped := [part for part in report.parts if part.layers != (part.name,)]:
        yield "Modules: " + "; ".join(f"{part.name} ({', '.join(part.layers)})" for part in grouped) + "."
    yield from variant_notes(report.reports, "variants.csv", report.failed)

"""What the study `sensitivity` tells: a table sorted by what hurts, a sentence on what to keep in float."""

from __future__ import annotations

from collections.abc import Iterator

from quantexp.config import Criterion
from quantexp.reports.cells import known, speedup_word
from quantexp.reports.findings import Findings
from quantexp.reports.notes import SIMULATED, variant_notes
from quantexp.reports.table import Table
from quantexp.results import Report
from quantexp.results.comparison import LOSS
from quantexp.results.text import listed, p_text, points_text, size_text
from quantexp.studies.criteria import compared, value_text
from quantexp.studies.sensitivity.findings import SensitivityReport, loss_change, metrics, variant_lines
from quantexp.studies.sensitivity.pictures import pictures


def findings(report: SensitivityReport) -> Findings:
    """Return the report as it is shown and recorded."""
    return Findings(metrics(report), table(report), {"variants": variant_lines(report)}, pictures(report))


def table(report: SensitivityReport) -> Table:
    """Return a row a variant, the parts sorted by what hurts; what could not be measured has empty cells."""
    sizes = [f"Speedup\nB{speedup.batch_size}" for speedup in compared(report.whole).speedups]
    figures = ("Accuracy\n(points)", "Flips", "Loss", "Agreement\n(%)", "SQNR\n(dB)")
    columns = (report.whole.network_name, "Quantized", *figures, *sizes, "Size\n(MB)")
    rows = [("all layers", "all", *_cells(report, report.whole))]
    for part in report.ranked:
        for index, (kind, run) in enumerate(part.runs):
            cells = _cells(report, run) if run else ("",) * (len(columns) - 2)
            rows.append((part.name if index == 0 else "", kind, *cells))
    return Table(columns, tuple(rows), tuple(_notes(report))).compact()


def advice(report: SensitivityReport) -> str:
    """Say which parts to keep in float."""
    if report.by is not Criterion.accuracy:
        return _closest(report)
    whole, tested = compared(report.whole).quality, len(report.tested)
    how = f"exact McNemar test, 5 %{f' over {tested} tests' * (tested > 1)}"
    if found := report.to_keep:
        names = listed([won.part.name for won in found])
        gains = "; ".join(
            f"{won.part.name} wins back {100 * won.gain:.2f} points ({p_text(won.p_value)})" for won in found
        )
        return (
            f"Keep {names} in float ({_exclude(report, [won.part.layers for won in found])}): left out, {gains}; {how}."
        )
    if whole is None or whole.verdict != LOSS:
        return f"No layer's loss can be told from chance: quantize all ({how})."
    lost = f"All layers together lose {100 * whole.drop:.2f} points ({p_text(whole.p_value)})"
    if not tested:
        return f"{lost}, and nothing would be left to quantize without {listed([part.name for part in report.parts])}."
    return f"{lost}, but no single one left out wins accuracy back that can be told from chance ({how})."


def _closest(report: SensitivityReport) -> str:
    """Say which part left in float brings the outputs closest to float's; no test says whether it matters."""
    whole = value_text(report.by, compared(report.whole))
    if report.closest is None:
        return f"All layers together: {whole}. No single layer left in float brings the outputs closer to float's."
    part, run = report.closest
    return (
        f"Kept in float, {part.name} brings the outputs closest to float's ({_exclude(report, [part.layers])}): "
        f"{value_text(report.by, compared(run))}, all layers together {whole}. "
        "Whether accuracy gains by it is not known."
    )


def _exclude(report: SensitivityReport, layers: list[tuple[str, ...]]) -> str:
    names = dict.fromkeys([*report.excluded, *(layer for of_part in layers for layer in of_part)])
    return f"quant.exclude=[{','.join(names)}]"


def _cells(report: SensitivityReport, run: Report) -> tuple[str, ...]:
    comparison, change = compared(run), loss_change(run)
    quality = comparison.quality
    same = "" if quality and report.by is not Criterion.agreement else f"{100 * comparison.agreement:.2f}"
    return (
        points_text(-quality.drop) if quality else "",
        f"+{quality.flips_gained} -{quality.flips_lost}" if quality else "",
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
    sqnr = "SQNR: energy of the float logits over that of their change."
    if quality:
        yield (
            f"{whole.quant} {whole.precision} against float ({100 * quality.value:.2f} %, {size}). Accuracy, Loss: "
            f"change from float. Flips: {whole.data.evaluation} examples gained and lost. {sqnr}"
        )
    else:
        same = "Agreement: examples of which both predict the same."
        yield f"{whole.quant} {whole.precision} against float ({size}). {same} {sqnr}"
    if whole.precision == SIMULATED:
        yield "Simulated: rounded values, computed with in float. Sizes are those of float, and nothing is timed."
    by = {Criterion.accuracy: "the accuracy lost", Criterion.agreement: "the agreement"}.get(
        report.by, "the output SQNR"
    )
    yield f"Sorted by {by} when quantized alone, ties by the lower SQNR."
    if grouped := [part for part in report.parts if part.layers != (part.name,)]:
        yield "As a whole: " + "; ".join(f"{part.name} ({', '.join(part.layers)})" for part in grouped) + "."
    yield from variant_notes(report.reports, "variants.csv", report.failed)

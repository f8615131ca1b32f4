"""Tables for the terminal and for Markdown, and the table of one run: the two models side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from quantexp.reports.cells import energy_ratio_text, energy_text, known, mean_std, quality_text, speedup_text
from quantexp.reports.notes import EAGER, SIMULATED, memory_notes, notes
from quantexp.reports.widths import Fitted
from quantexp.results import Evidence, Measured, OtherFloat, OtherQuantized, QualityChange, Report
from quantexp.results.text import change_text, grouped, listed, mac_share_text, megaflops_text, p_text, size_text
from quantexp.system.terminal import printable

TEXT_COLUMNS = (
    *("Task", "Quantization", "dtype", "flow", "engine", "Baseline", "Candidate", "Settings", "Quantized", "Setup"),
    *("Compared", "Verdict", "Significant?", "Requested by", "Failed", "Bound", "Front", "Result", "runtime"),
    *("Runtime", "Network", "Fastest"),
    *("Method", "Machine", "Only on", "Store", "CPU", "Instruction sets", "System", "Property", "Values"),
)
SHOWN = 3  # unknown operators
Row = tuple[str, list[str], str]  # name, a cell per model, change


@dataclass(frozen=True)
class Table:
    """Rows of text below headers, with notes."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def compact(self) -> Table:
        """Return the table without empty columns."""
        kept = [at for at, _ in enumerate(self.columns) if any(row[at] for row in self.rows)]
        rows = tuple(tuple(row[at] for at in kept) for row in self.rows)
        return Table(tuple(self.columns[at] for at in kept), rows, self.notes)

    def without(self, column: int) -> Table:
        """Return the table without the column at this position."""
        columns, *rows = (row[:column] + row[column + 1 :] for row in (self.columns, *self.rows))
        return Table(columns, tuple(rows), self.notes)

    def cut(self, most: int) -> Table:
        """Return the table with at most so many rows, and a note on those that are left out."""
        left = len(self.rows) - most
        if left <= 0:
            return self
        told = f"Rows that are not shown here: {left:,}. The written report has all."
        return Table(self.columns, self.rows[:most], (*self.notes, told))

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = ("---" if index == 0 or name in TEXT_COLUMNS else "---:" for index, name in enumerate(self.columns))
        lines = [f"| {' | '.join(row)} |" for row in (_cells(self.columns), tuple(rule), *map(_cells, self.rows))]
        return "\n".join([*lines, "", *(f"- {plain(note)}" for note in self.notes), ""])

    def rich(self) -> Fitted:
        """Return the table for the terminal."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            box=box.SIMPLE_HEAD, caption=Text(printable("\n".join(self.notes))), caption_justify="left", pad_edge=False
        )
        for index, name in enumerate(self.columns):
            justify: Literal["left", "right"] = "left" if index == 0 or name in TEXT_COLUMNS else "right"
            table.add_column(Text(printable(name)), justify=justify, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        texts = [[printable(text) for text in column] for column in zip(self.columns, *self.rows, strict=True)]
        return Fitted(table, texts)


def plain(text: str) -> str:
    """Return text in one line, escaped so that Markdown finds neither HTML nor links in it."""
    return re.sub(r"<(?=[A-Za-z/!?])|](?=\()", r"\\\g<0>", text.replace("\n", " "))


def _cells(row: Sequence[str]) -> tuple[str, ...]:
    return tuple(plain(cell).replace("|", "\\|") for cell in row)


# One run


def comparison_table(report: Report) -> Table:
    """Return the float and the quantized network side by side, a row per quantity, and what changed."""
    models = [("none", report.baseline)]
    if report.quantized:
        models.append((report.quant, report.quantized))
    rows = list(_rows(report, models))
    columns = [report.network_name, *[""] * len(models)]
    texts = [[name, *cells, *[""] * (len(models) - len(cells))] for name, cells, _ in rows]
    if report.comparison or report.others:
        columns.append("vs float")
        texts = [[*cells, change] for cells, (_, _, change) in zip(texts, rows, strict=True)]
    meaning = (*notes([report]), *memory_notes(model for _, model in models))
    return Table(tuple(columns), tuple(map(tuple, texts)), (*_findings(report), *meaning))


def _rows(report: Report, models: Sequence[tuple[str, Measured]]) -> Iterator[Row]:
    comparison, only = report.comparison, [model for _, model in models]
    smaller = f"{comparison.compression:.2f}x smaller" if comparison and report.precision != SIMULATED else ""
    yield "Quantization", [quant for quant, _ in models], ""
    yield "dtype", [model.precision for model in only], ""
    if report.runtime != EAGER:
        yield "Runtime", [report.runtime for _ in only], ""
    yield "Size (MB)", [size_text(model.size_mb) for model in only], smaller
    yield "Params", [f"{model.size.parameters:,}" for model in only], ""
    yield "MFLOPs", [megaflops_text(report.flops) for _ in only], ""
    yield from _quality_rows(report, only)
    if any(model.agreement_with_eager is not None for model in only):
        same = [100 * (model.agreement_with_eager or 0.0) for model in only]
        yield f"Same as in {EAGER} (%)", [f"{share:.2f}" for share in same], ""
    yield from _latency_rows(report, only)
    yield from _energy_rows(report, only)
    if report.baseline.latency:
        yield "First call (ms)", [f"{model.latency[0].first_call_ms:.2f}" for model in only], ""
    yield "Load (ms)", [known(model.load_ms, 0) for model in only], ""
    if any(model.train_seconds is not None for model in only):
        ratio = comparison.training_ratio if comparison else None
        times = "" if ratio is None else f"{ratio:.2f}x the time"
        yield "Training (s)", [known(model.train_seconds, 1) for model in only], times
    if any(model.memory_bytes is not None for model in only):
        yield "Memory (MB)", [f"{(model.memory_bytes or 0) / 1e6:.0f}" for model in only], ""


def _quality_rows(report: Report, models: Sequence[Measured]) -> Iterator[Row]:
    """Yield the quality, or without labels agreement and SQNR."""
    comparison = report.comparison
    if qualities := [model.quality for model in models if model.quality]:
        change = change_text(comparison.quality) if comparison and comparison.quality else ""
        name = qualities[0].name.capitalize()
        yield f"{name} (%)", [quality_text(quality) for quality in qualities], change
        for other in report.others_quantized:
            there = other.measured.quality
            if there and there.correct != qualities[-1].correct:
                yield f"{name} in {other.runtime} (%)", ["", quality_text(there)], ""
    elif comparison:
        yield "Agreement (%)", ["", f"{100 * comparison.agreement:.2f}"], ""
        yield "Output SQNR (dB)", ["", known(comparison.output_sqnr_db, 1)], ""


def _latency_rows(report: Report, models: Sequence[Measured]) -> Iterator[Row]:
    """Yield the latency per batch size, each followed by that in further runtimes."""
    speedups = report.comparison.speedups if report.comparison else ()
    of_size = {speedup.batch_size: speedup_text(speedup) for speedup in speedups}
    for at, latency in enumerate(report.baseline.latency):
        size = latency.batch_size
        cells = [mean_std(model.latency[at]) for model in models]
        yield f"Latency B{size} (ms)", cells, of_size.get(size, "")
        for other in report.others:
            name, quantized = f"  {other.runtime} B{size}", report.quantized_in(other.runtime)
            cells = [mean_std(one.latency[at]) for one in _there(other, quantized)]
            if quantized:
                yield name, cells, speedup_text(quantized.speedups[at])
                continue
            over = other.quantized_speedups or other.speedups
            pair = f"vs {other.runtime}" if other.quantized_speedups else f"{other.runtime} vs {report.runtime}"
            yield name, cells, f"{pair}: {speedup_text(over[at])}"
    if any(model.prepare_seconds is not None for model in models):
        yield f"Preparation, {report.runtime} (s)", [known(model.prepare_seconds, 1) for model in models], ""
    for other in report.others:
        if other.prepare_seconds is not None:
            there = _there(other, report.quantized_in(other.runtime))
            yield f"Preparation, {other.runtime} (s)", [known(one.prepare_seconds, 1) for one in there], ""


def _there(reference: OtherFloat, quantized: OtherQuantized | None) -> tuple[OtherFloat | Measured, ...]:
    """Return what was measured in a further runtime, float and, if it was executed there, quantized."""
    return (reference, quantized.measured) if quantized else (reference,)


def _energy_rows(report: Report, models: Sequence[Measured]) -> Iterator[Row]:
    """Yield the energy per batch size, where it was measured, and that in further runtimes."""
    ratios = report.comparison.energy_ratios if report.comparison else ()
    of_size = {ratio.batch_size: energy_ratio_text(ratio) for ratio in ratios}
    for at, latency in enumerate(report.baseline.latency):
        size = latency.batch_size
        if latency.energy:
            cells = [energy_text(energy) if (energy := model.latency[at].energy) else "" for model in models]
            yield f"Energy B{size} (mJ)", cells, of_size.get(size, "")
        for other in report.others:
            there = _there(other, report.quantized_in(other.runtime))
            energies = [one.latency[at].energy for one in there]
            if any(energies):
                yield f"  {other.runtime} B{size} (mJ)", [energy_text(one) if one else "" for one in energies], ""


def _findings(report: Report) -> Iterator[str]:
    """Yield sentences that interpret the figures."""
    if comparison := report.comparison:
        if comparison.quality:
            yield _quality_sentence(comparison.quality, report.data.evaluation)
        yield _evidence_sentence(report)
        reasons = {found.batch_size: "; ".join(found.reasons) for found in comparison.not_faster}
        for speedup in comparison.speedups:
            if speedup.batch_size in reasons:
                verdict = "not faster" if speedup.low is None else speedup.verdict
                why = reasons[speedup.batch_size]
                yield f"Latency at batch {speedup.batch_size}: {verdict}. Reasons: {why}."
    for finding in report.findings:
        yield f"FINDING: {finding.text}."
    for reason in report.unstable:
        yield f"UNSTABLE at {reason}."
    if report.unstable:
        yield "These latencies are not reliable; measure again without what disturbed them."


def _quality_sentence(change: QualityChange, split: str) -> str:
    detectable = f"minimum detectable drop: {100 * change.detectable_drop:.2f} points (80 % power)"
    if change.detectable_drop == 1:
        detectable = f"the {split} set is too small to detect any drop"
    name = change.name.capitalize()
    return f"{name}: {change.verdict} (exact McNemar test, {p_text(change.p_value)}); {detectable}."


def _evidence_sentence(report: Report) -> str:
    evidence = report.result.evidence
    held = f"{len(evidence.held(report.precision))} of {len(evidence.layers)} layers"
    left = ", ".join(f"{names} ({reason})" for names, reason in grouped(evidence.left_in_float))
    if report.precision == SIMULATED:
        bits = max((layer.bits for layer in evidence.layers if layer.precision == SIMULATED), default=0)
        text = f"{held} are simulated: weights rounded to {bits} bits, computed in float, with the size of float"
    else:
        flow = f" (quant.flow={report.flow})" if report.flow else ""
        text = f"{held} have {report.precision} weights{flow}, {_share(evidence, report.precision)}"
    return f"Evidence: {text}{f'; left in float: {left}' if left else ''}."


def _share(evidence: Evidence, precision: str) -> str:
    if evidence.mac_share(precision) is None:
        unknown = evidence.account.unknown if evidence.account else ()
        return f"no share of multiply-accumulates is given: the account does not know {listed(unknown, SHOWN)}"
    return f"{mac_share_text(evidence, precision)} of the multiply-accumulates ran in {precision}"

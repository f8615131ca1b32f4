"""Tables: the two models of one run side by side, and the runs of a sweep in the lab's columns.

A table is text in cells; the screen and Markdown show the same one. CSV holds numbers, so mean
and deviation stand in columns of their own there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from quantexp.report.results import Comparison, Latency, Measured, Report, Speedup

if TYPE_CHECKING:
    from rich.table import Table as RichTable

TEXT_COLUMNS = ("Task", "Quantization", "dtype")


@dataclass(frozen=True)
class Table:
    """Rows of text under headers, and a note below them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = ("---" if index == 0 or name in TEXT_COLUMNS else "---:" for index, name in enumerate(self.columns))
        cells = (tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in self.rows)
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, tuple(rule), *cells)]
        return "\n".join([*lines, "", self.note, ""])

    def rich(self) -> RichTable:
        """Return the table for the terminal."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, caption=Text(self.note), caption_justify="left", pad_edge=False)
        for index, name in enumerate(self.columns):
            justify: Literal["left", "right"] = "left" if index == 0 or name in TEXT_COLUMNS else "right"
            table.add_column(Text(name), justify=justify, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table


def comparison_table(report: Report) -> Table:
    """Return the float model and the quantized one side by side, a quantity a row, and what changed."""
    models = [("none", report.baseline)]
    if report.quantized:
        models.append((report.quant, report.quantized))
    sizes = [one.batch_size for one in report.baseline.latency]
    rows = [
        ["Quantization", *(quant for quant, _ in models)],
        ["dtype", *(model.precision for _, model in models)],
        ["Size (MB)", *(f"{model.size_mb:.2f}" for _, model in models)],
        ["Params", *(f"{model.parameters:,}" for _, model in models)],
        ["Accuracy (%)", *(_accuracy(model) for _, model in models)],
        *(
            [f"Latency B{size} (ms)", *(_mean_std(model.latency[at]) for _, model in models)]
            for at, size in enumerate(sizes)
        ),
        ["Training (s)", *(_seconds(model.train_seconds) for _, model in models)],
    ]
    if not report.comparison:
        return Table((_task(report), ""), tuple(map(tuple, rows)), _note([report]))
    changes = _changes(report.comparison)
    return Table(
        (_task(report), "", "", "quantized against float"),
        tuple((*row, changes.get(row[0], "")) for row in rows),
        _note([report]),
    )


def _changes(comparison: Comparison) -> dict[str, str]:
    """Return what the quantized model changed, by row of the table."""
    change = 100 * (0 - comparison.accuracy_drop)
    changes = {
        "Size (MB)": f"{comparison.compression:.2f}x smaller",
        "Accuracy (%)": f"{change:+.2f} points: {comparison.flips_gained} gained, {comparison.flips_lost} lost",
    }
    for one in comparison.speedups:
        changes[f"Latency B{one.batch_size} (ms)"] = _speedup(one)
    if comparison.training_ratio is not None:
        changes["Training (s)"] = f"{comparison.training_ratio:.2f}x the time"
    return changes


def sweep_table(reports: Sequence[Report]) -> Table:
    """Return one row a run, in the lab's columns."""
    sizes = _batch_sizes(reports)
    columns = (
        *("Task", "Quantization", "dtype", "Size (MB)", "Params", "Accuracy"),
        *(f"Latency B{size} (ms)" for size in sizes),
    )
    seeds = {report.seed for report in reports}
    if len(seeds) > 1:
        columns = (*columns, "Seed")
    rows = []
    for report in reports:
        model = report.result
        cells = (_task(report), report.quant, model.precision, f"{model.size_mb:.2f}", f"{model.parameters:,}")
        latencies = {one.batch_size: _mean_std(one) for one in model.latency}
        seed = (str(report.seed),) if len(seeds) > 1 else ()
        accuracy = f"{100 * model.accuracy.value:.2f} %"
        rows.append((*cells, accuracy, *(latencies.get(size, "") for size in sizes), *seed))
    return Table(columns, tuple(rows), _note(reports))


def sweep_csv(reports: Sequence[Report]) -> str:
    """Return the sweep's table as CSV, with plain numbers: accuracy in [0, 1], milliseconds, MB."""
    sizes = _batch_sizes(reports)
    latency_columns = [f"Latency B{size} {what} (ms)" for size in sizes for what in ("mean", "std")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ("Task", "Quantization", "dtype", "Size (MB)", "Params", "Accuracy")
    writer.writerow([*columns, *latency_columns, "Seed", "Benchmark", "Threads"])
    for report in reports:
        model = report.result
        of_size = {one.batch_size: one for one in model.latency}
        times = [
            round(value, 6) if value is not None else ""
            for size in sizes
            for value in ((of_size[size].mean_ms, of_size[size].std_ms) if size in of_size else (None, None))
        ]
        figures = [round(model.size_mb, 6), model.parameters, round(model.accuracy.value, 6)]
        label = [_task(report), report.quant, report.precision]
        writer.writerow([*label, *figures, *times, report.seed, report.benchmark, report.threads])
    return buffer.getvalue()


def _accuracy(model: Measured) -> str:
    return f"{100 * model.accuracy.value:.2f} [{100 * model.accuracy.low:.2f}, {100 * model.accuracy.high:.2f}]"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _task(report: Report) -> str:
    return report.task if report.data.source == "full" else f"{report.task} ({report.data.source})"


def _mean_std(one: Latency) -> str:
    return f"{one.mean_ms:.3f} ± {one.std_ms:.3f}"


def _speedup(one: Speedup) -> str:
    interval = "" if one.low is None else f" [{one.low:.2f}, {one.high:.2f}]"
    return f"{one.ratio:.2f}x as fast{interval}"


def _batch_sizes(reports: Sequence[Report]) -> list[int]:
    return sorted({one.batch_size for report in reports for one in report.result.latency})


def _note(reports: Sequence[Report]) -> str:
    """Say what the cells mean: over what the deviation is taken, at how many threads, on which data."""
    protocols = sorted({report.benchmark for report in reports})
    threads = ", ".join(str(count) for count in sorted({report.threads for report in reports}))
    over = {"lab": "over single calls"}
    meaning = "; ".join(f"{name}: {over.get(name, 'over timed blocks of calls')}" for name in protocols)
    notes = [f"Latency: forward pass, mean ± std ({meaning}), CPU threads: {threads}."]
    if any(report.comparison for report in reports):
        notes.append("[ ]: 95 % interval.")
    if any(report.data.source == "sample" for report in reports):
        notes.append("sample: the small data set in the package; its accuracies say nothing of the real one.")
    if any(report.calibration == "test" for report in reports):
        notes.append("Calibrated on the test split, as the lab allows.")
    return " ".join(notes)

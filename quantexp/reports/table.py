"""Tables: text in cells, the same on the screen and in Markdown; and that of one run, its two models side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from quantexp.reports.widths import Fitted
from quantexp.results import Comparison, Latency, Measured, Report, Speedup
from quantexp.results.text import p_text, size_text
from quantexp.system.terminal import printable

SIMULATED = "simulated"  # the precision of what is rounded and computed in float
TEXT_COLUMNS = (
    *(
        "Task",
        "Quantization",
        "dtype",
        "flow",
        "engine",
        "Left",
        "Taken",
        "Settings",
        "Quantized",
        "Setup",
        "Compared",
        "Verdict",
    ),
    *("Change told", "Among", "Failed", "Bound", "Front"),
)


@dataclass(frozen=True)
class Table:
    """Rows of text under headers, and notes below them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

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
    """Return text in one line in which Markdown finds neither HTML nor links."""
    return re.sub(r"<(?=[A-Za-z/!?])|](?=\()", r"\\\g<0>", text.replace("\n", " "))


def _cells(row: Sequence[str]) -> tuple[str, ...]:
    return tuple(plain(cell).replace("|", "\\|") for cell in row)


def comparison_table(report: Report) -> Table:
    """Return the float model and the quantized one side by side, a quantity a row, and what changed."""
    models = [("none", report.baseline)]
    if report.quantized:
        models.append((report.quant, report.quantized))
    rows = [
        ["Quantization", *(quant for quant, _ in models)],
        ["dtype", *(model.precision for _, model in models)],
        ["Size (MB)", *(size_text(model.size_mb) for _, model in models)],
        ["Params", *(f"{model.size.parameters:,}" for _, model in models)],
        ["Accuracy (%)", *(accuracy_text(model) for _, model in models)],
    ]
    for at, one in enumerate(report.baseline.latency):
        rows.append([_latency_row(one), *(mean_std(model.latency[at]) for _, model in models)])
        if report.compiled:
            rows.append([_compiled_row(one), mean_std(report.compiled.latency[at])])
    rows += [
        *([["Compile (s)", f"{report.compiled.compile_seconds:.1f}"]] if report.compiled else []),
        *([["First call (ms)", *(_first_call(model) for _, model in models)]] if report.baseline.latency else []),
        ["Load (ms)", *(_known(model.load_ms, 0) for _, model in models)],
        ["Training (s)", *(_known(model.train_seconds, 1) for _, model in models)],
    ]
    if any(model.memory_bytes is not None for _, model in models):
        rows.append(["Memory (MB)", *(f"{(model.memory_bytes or 0) / 1e6:.0f}" for _, model in models)])
    rows = [[*row, *[""] * (len(models) + 1 - len(row))] for row in rows]
    columns: tuple[str, ...] = (report.network_name, *[""] * len(models))
    changes = _changes(report)
    if changes:
        columns = (*columns, "against float")
        rows = [[*row, changes.get(row[0], "")] for row in rows]
    return Table(columns, tuple(map(tuple, rows)), (*_findings(report), *notes([report])))


def _changes(report: Report) -> dict[str, str]:
    """Return what became of each quantity, by row of the table."""
    changes: dict[str, str] = {}
    if report.compiled:
        for one in report.compiled.speedups:
            changes[_compiled_row(one)] = f"compiled against eager: {speedup_text(one)}"
    comparison = report.comparison
    if comparison is None:
        return changes
    change = 100 * (0 - comparison.accuracy_drop)
    if report.precision != SIMULATED:
        changes["Size (MB)"] = f"{comparison.compression:.2f}x smaller"
    changes |= {
        "Accuracy (%)": f"{change:+z.2f} points: {comparison.flips_gained} gained, {comparison.flips_lost} lost",
    }
    changes |= {_latency_row(one): speedup_text(one) for one in comparison.speedups}
    changes |= {
        _compiled_row(one): f"against compiled: {speedup_text(one)}" for one in comparison.speedups_over_compiled
    }
    if comparison.training_ratio is not None:
        changes["Training (s)"] = f"{comparison.training_ratio:.2f}x the time"
    return changes


def _findings(report: Report) -> Iterator[str]:
    """Say in sentences what the figures do not say by themselves."""
    if comparison := report.comparison:
        yield _accuracy_sentence(comparison, report.data.evaluation)
        yield _evidence_sentence(report)
        reasons = {one.batch_size: "; ".join(one.reasons) for one in comparison.not_faster}
        for one in comparison.speedups:
            if one.batch_size in reasons:
                verdict = "not faster" if one.low is None else one.verdict
                yield f"Latency at batch {one.batch_size}: {verdict}. Why not faster: {reasons[one.batch_size]}."
    for reason in report.unstable:
        yield f"UNSTABLE at {reason}."
    if report.unstable:
        yield "Measure again on a quiet machine before you believe these latencies."


def _accuracy_sentence(comparison: Comparison, split: str) -> str:
    p_value = p_text(comparison.p_value)
    told = f"a true drop of {100 * comparison.detectable_drop:.2f} points would be told in 4 of 5 such {split} sets"
    if comparison.detectable_drop == 1:
        told = f"so few {split} examples tell no drop"
    return f"Accuracy: {comparison.accuracy_verdict} (exact McNemar test, {p_value}); {told}."


def _evidence_sentence(report: Report) -> str:
    evidence = report.result.evidence
    lowered = sum(layer.precision == report.precision for layer in evidence.layers)
    ran = f"{evidence.mac_share(report.precision):.0%} of the multiply-accumulates ran in {report.precision}"
    left = ", ".join(f"{one.name} ({one.reason})" for one in evidence.left_in_float)
    if report.precision == SIMULATED:
        bits = max((one.bits for one in evidence.layers if one.precision == SIMULATED), default=0)
        ran = f"their weights rounded to {bits} bits, and are computed in float: this tells nothing of size or latency"
        lowered_are = f"{lowered} of {len(evidence.layers)} layers are simulated"
        return f"Evidence: {lowered_are}, {ran}{f'; left in float: {left}' if left else ''}."
    return (
        f"Evidence: {lowered} of {len(evidence.layers)} layers hold {report.precision}, {ran}"
        f"{f'; left in float: {left}' if left else ''}."
    )


def accuracy_text(model: Measured) -> str:
    """Return the accuracy in per cent with its interval."""
    return f"{100 * model.accuracy.value:.2f} [{100 * model.accuracy.low:.2f}, {100 * model.accuracy.high:.2f}]"


def _first_call(model: Measured) -> str:
    return f"{model.latency[0].first_call_ms:.2f}"


def _known(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def mean_std(one: Latency) -> str:
    """Return the latency in milliseconds with its deviation."""
    return f"{one.mean_ms:.3f} ± {one.std_ms:.3f}"


def _latency_row(one: Latency | Speedup) -> str:
    return f"Latency B{one.batch_size} (ms)"


def _compiled_row(one: Latency | Speedup) -> str:
    return f"  compiled B{one.batch_size}"


def speedup_text(one: Speedup) -> str:
    """Return the speedup with its interval and the verdict in short."""
    if one.low is None:
        return f"{one.ratio:.2f}x as fast"
    return f"{one.ratio:.2f}x [{one.low:.2f}, {one.high:.2f}] {one.verdict.partition(' of ')[0]}"


def speedup_word(one: Speedup) -> str:
    """Return the speedup with a word where it is told from 1: `1.25x faster`, `1.01x`."""
    word = one.verdict if one.verdict in ("faster", "slower") else ""
    return f"{one.ratio:.2f}x {word}".rstrip()


def variant_notes(reports: Sequence[Report], file: str, failed: Mapping[str, str]) -> Iterator[str]:
    """Say of the variants of a study which could not be measured, and what the cells of the others mean.

    Args:
        reports: Of all variants; they share task, data and protocol.
        file: Has the intervals of the speedups.
        failed: The error of each variant that could not be measured.
    """
    for name, error in failed.items():
        yield f"Not measured: {name} ({error})."
    if unstable := sum(bool(report.unstable) for report in reports):
        yield (
            f"UNSTABLE in {unstable} of {len(reports)} runs: the machine was not quiet; the reasons stand in each run."
        )
    if any(report.result.latency for report in reports):
        threads = ", ".join(sorted({str(report.threads) for report in reports}))
        yield (
            f"Speedup: against float, CPU threads: {threads}; faster or slower where the whole 95 % interval says so. "
            f"The intervals: {file}."
        )
    yield from data_notes(reports[:1])


def notes(reports: Sequence[Report]) -> Iterator[str]:
    """Say what the cells mean: over what the deviation is taken, at how many threads, on which data."""
    protocols = sorted({report.benchmark for report in reports})
    threads = ", ".join(str(count) for count in sorted({report.threads for report in reports}))
    over = {"lab": "over single calls"}
    meaning = "; ".join(f"{name}: {over.get(name, 'over timed blocks of calls')}" for name in protocols)
    if any(report.result.latency for report in reports):
        yield f"Latency: forward pass, mean ± std ({meaning}), CPU threads: {threads}. [ ]: 95 % interval."
    yield from data_notes(reports)


def data_notes(reports: Sequence[Report]) -> Iterator[str]:
    """Say what is known against the figures, and on which data they were taken."""
    if any(report.unstable for report in reports) and len(reports) > 1:
        yield "* unstable: the machine was not quiet meanwhile; the reasons stand in each run."
    if any(report.data.source == "sample" for report in reports):
        yield "sample: the small data set in the package; its accuracies say nothing of the real one."
    if validated := [report.data for report in reports if report.data.evaluation == "validation"]:
        what = "Accuracy" if len(validated) == len(reports) else "Where evaluation=validation: accuracy"
        counts = ", ".join(sorted({f"{data.validation:,}" for data in validated}))
        yield f"{what} on the validation split: {counts} examples held out of train."
    if any(report.calibration == "test" for report in reports):
        yield "Calibrated on the test split, as the lab allows."

"""A sweep as CSV: plain numbers, a row per run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from quantexp.analysis.variants import Variant, variants
from quantexp.results import Report
from quantexp.results.metrics import metrics
from quantexp.results.sweep import Entry, SweepResult, UnsupportedEntry

Row = dict[str, object]


def sweep_csv(sweep: SweepResult) -> str:
    """Return the summary, a row per finished run: accuracy and agreement in [0, 1], milliseconds, MB.

    There is a column for accuracy if a run has labels, and columns for agreement and SQNR if a run has none; for energy
    if a run measured it, with a column that says why others did not. FLOPs are empty if they cannot be counted.
    """
    sizes = sorted({latency.batch_size for report in sweep.reports for latency in report.result.latency})
    unlabelled = any(report.result.quality is None for report in sweep.reports)
    labelled = any(report.result.quality for report in sweep.reports) or not unlabelled
    quality = [*(["Accuracy"] if labelled else []), *(["Agreement", "SQNR (dB)"] if unlabelled else [])]
    columns = ["Task", "Quantization", "dtype", "Size (MB)", "Params", "FLOPs", *quality]
    columns += [f"Latency B{size} {what} (ms)" for size in sizes for what in ("mean", "std")]
    measured = has_energy(sweep)
    columns += [f"Energy B{size}{what} (J)" for size in sizes for what in ("", " low", " high") if measured]
    columns += ["No energy because"] if measured else []
    columns += ["Seed", "Benchmark", "Threads", "Host", "Machine"]
    rows = [{**_summary(entry.report), **dict(variant.settings)} for variant, entry in _entries(sweep) if entry.report]
    return csv_text([*columns, *_varied(sweep)], rows)


def full_csv(sweep: SweepResult) -> str:
    """Return every figure of every combination by its public name, a row per run.

    Failed runs have their error, unsupported combinations the reason, and neither has figures.
    """
    described = [
        "run",
        "name",
        "task",
        "quant",
        "precision",
        "seed",
        "host",
        "machine",
        "protocol",
        "threads",
        "runtime",
    ]
    varied = [name for name in _varied(sweep) if name != "runtime"]
    figures = [metrics(report) for report in sweep.reports]
    names = list(dict.fromkeys(name for named in figures for name in named))
    verdict = ["verdict_accuracy"] if any(report.result.quality for report in sweep.reports) else []
    texts = [*verdict, *(["no_energy_because"] if has_energy(sweep) else []), "unstable_because", "findings"]
    columns = [*described, *varied, *names, *texts, "error", "unsupported"]
    rows = [_full(variant, entry) for variant, entry in _entries(sweep)]
    return csv_text(columns, [*rows, *map(_unsupported, sweep.unsupported)])


def _summary(report: Report) -> Row:
    model = report.result
    row: Row = {"Task": report.task_name, "Quantization": report.quant, "dtype": report.precision}
    row |= {"Size (MB)": round(model.size_mb, 6), "Params": model.size.parameters}
    row |= {"FLOPs": "" if report.flops is None else report.flops, "No energy because": report.no_energy}
    if model.quality:
        row["Accuracy"] = round(model.quality.value, 6)
    if comparison := report.comparison:
        sqnr = comparison.output_sqnr_db
        row |= {"Agreement": round(comparison.agreement, 6), "SQNR (dB)": "" if sqnr is None else round(sqnr, 3)}
    for latency in model.latency:
        stem = f"Latency B{latency.batch_size}"
        row |= {f"{stem} mean (ms)": round(latency.mean_ms, 6), f"{stem} std (ms)": round(latency.std_ms, 6)}
        if energy := latency.energy:
            ends = {"": energy.joules, " low": energy.low_joules, " high": energy.high_joules}
            row |= {f"Energy B{latency.batch_size}{end} (J)": joules for end, joules in ends.items()}
    row |= {"Seed": report.seed, "Benchmark": report.benchmark, "Threads": report.threads}
    return row | {"Host": report.host, "Machine": report.machine}


def _full(variant: Variant, entry: Entry) -> Row:
    report, setup = entry.report, variant.setup
    row: Row = dict(variant.settings)
    row |= {"run": entry.run_id, "name": entry.name, "task": variant.task, "quant": variant.quant}
    row |= {"precision": variant.precision, "error": entry.error or ""}
    if report is None or setup is None:
        return row | {name: entry.settings.get(name, "") for name in ("seed", "runtime")}
    change = report.comparison.quality if report.comparison else None
    row |= {"seed": report.seed, "host": setup.host, "machine": setup.machine, "protocol": setup.protocol}
    row |= {"threads": setup.threads, "runtime": report.runtime, "unstable_because": "; ".join(report.unstable)}
    row |= {"findings": "; ".join(finding.text for finding in report.findings), "no_energy_because": report.no_energy}
    return {**row, **metrics(report), "verdict_accuracy": change.verdict if change else ""}


def has_energy(sweep: SweepResult) -> bool:
    """Return whether a run measured energy."""
    return any(latency.energy for report in sweep.reports for latency in report.result.latency)


def _unsupported(entry: UnsupportedEntry) -> Row:
    return {**entry.settings, "name": " ".join(entry.asked), "precision": "", "unsupported": entry.reason}


def _entries(sweep: SweepResult) -> Iterator[tuple[Variant, Entry]]:
    """Return each combination with its variant, in the order of the sweep."""
    of_run = {id(entry): variant for variant in variants(sweep) for entry in variant.entries}
    return ((of_run[id(entry)], entry) for entry in sweep.entries)


def _varied(sweep: SweepResult) -> list[str]:
    return list(dict.fromkeys(name for variant in variants(sweep) for name, _ in variant.settings))


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV below their columns; what a row lacks is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()

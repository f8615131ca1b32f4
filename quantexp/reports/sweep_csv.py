"""A sweep as CSV: plain numbers, a row per run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from quantexp.analysis.variants import Variant, variants
from quantexp.reports.sweep_table import SUMMARY
from quantexp.results import Report
from quantexp.results.metrics import metrics
from quantexp.results.sweep import Entry, Sweep


def sweep_csv(sweep: Sweep) -> str:
    """Return the summary, a row per finished run: accuracy and agreement in [0, 1], milliseconds, MB.

    There is a column for accuracy if a run has labels, and columns for agreement and SQNR if a run has none.
    """
    sizes = sorted({latency.batch_size for report in sweep.reports for latency in report.result.latency})
    unlabelled = any(report.result.quality is None for report in sweep.reports)
    labelled = any(report.result.quality for report in sweep.reports) or not unlabelled
    columns = [*SUMMARY, "Size (MB)", "Params", *(["Accuracy"] * labelled), *(["Agreement", "SQNR (dB)"] * unlabelled)]
    columns += [f"Latency B{size} {what} (ms)" for size in sizes for what in ("mean", "std")]
    columns += ["Seed", "Benchmark", "Threads", "Host", "Machine"]
    varied = _varied(sweep)
    lines: list[Sequence[object]] = [[*columns, *varied]]
    for variant, entry in _entries(sweep):
        if report := entry.report:
            model, settings = report.result, dict(variant.settings)
            line: list[object] = [report.task_name, report.quant, report.precision]
            line += [round(model.size_mb, 6), model.size.parameters]
            line += ([round(model.quality.value, 6)] if model.quality else [""]) * labelled
            line += _closeness(report) * unlabelled
            of_size = {latency.batch_size: latency for latency in model.latency}
            for size in sizes:
                latency = of_size.get(size)
                line += [round(latency.mean_ms, 6), round(latency.std_ms, 6)] if latency else ["", ""]
            line += [report.seed, report.benchmark, report.threads, report.host, report.machine]
            lines.append([*line, *(settings.get(name, "") for name in varied)])
    return _csv(lines)


def full_csv(sweep: Sweep) -> str:
    """Return every figure of every combination by its public name, a row per run.

    Failed runs have their error, unsupported combinations the reason, and neither has figures.
    """
    varied = [name for name in _varied(sweep) if name != "runtime"]
    figures = {entry.run_id: metrics(entry.report) for entry in sweep.entries if entry.report}
    names = list(dict.fromkeys(name for named in figures.values() for name in named))
    labelled = any(report.result.quality for report in sweep.reports)
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
    verdict = ["verdict_accuracy"] * labelled
    header = [*described, *varied, *names, *verdict, "unstable_because", "error", "unsupported"]
    lines: list[Sequence[object]] = [header]
    for variant, entry in _entries(sweep):
        report, setup, settings = entry.report, variant.setup, dict(variant.settings)
        line: list[object] = [entry.run_id, entry.name, variant.task, variant.quant, variant.precision]
        line += [report.seed if report else entry.settings.get("seed", "")]
        line += [setup.host, setup.machine, setup.protocol, setup.threads] if setup else [""] * 4
        line += [report.runtime if report else entry.settings.get("runtime", "")]
        line += [settings.get(name, "") for name in varied]
        line += [figures.get(entry.run_id, {}).get(name, "") for name in names]
        change = report.comparison.quality if report and report.comparison else None
        line += [change.verdict if change else ""] * labelled
        lines.append([*line, "; ".join(report.unstable) if report else "", entry.error or "", ""])
    for unsupported in sweep.unsupported:
        known = [unsupported.settings.get(name, "") for name in ("task", "quant")]
        known += ["", unsupported.settings.get("seed", "")]
        line = ["", " ".join(unsupported.asked), *known, *[""] * 4]
        line += [unsupported.settings.get(name, "") for name in ("runtime", *varied)]
        lines.append([*line, *[""] * (len(header) - len(line) - 1), unsupported.reason])
    return _csv(lines)


def _closeness(report: Report) -> list[object]:
    comparison = report.comparison
    if comparison is None:
        return ["", ""]
    sqnr = comparison.output_sqnr_db
    return [round(comparison.agreement, 6), "" if sqnr is None else round(sqnr, 3)]


def _entries(sweep: Sweep) -> Iterator[tuple[Variant, Entry]]:
    """Return each combination with its variant, in the order of the sweep."""
    of_run = {id(entry): variant for variant in variants(sweep) for entry in variant.entries}
    return ((of_run[id(entry)], entry) for entry in sweep.entries)


def _varied(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(name for variant in variants(sweep) for name, _ in variant.settings))


def _csv(lines: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()

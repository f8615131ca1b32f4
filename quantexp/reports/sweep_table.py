"""The tables of a sweep: the lab's, the full one, and methods compared over seeds.

The lab's table has a row a variant: runs that differ only in their seed are folded into mean ± standard deviation.
What was measured in several setups (machines, protocols, threads) has a column for each, so that no column mixes
them. The full table has a row a run and batch size. CSV holds plain numbers, a row a run.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

from quantexp.analysis.ratios import over_seeds
from quantexp.analysis.seeds import Difference, paired, spread
from quantexp.analysis.variants import (
    Setup,
    Variant,
    networks,
    place_names,
    settings_text,
    setup_names,
    setups,
    variants,
)
from quantexp.reports.table import Table, accuracy_text, mean_std, notes, speedup_text
from quantexp.results import NotFaster, Report
from quantexp.results.metrics import metrics
from quantexp.results.sweep import Entry, SweepResult
from quantexp.results.text import p_text, size_text

LONGEST_ERROR = 100  # characters of an error that a table shows
LAB = ("Task", "Quantization", "dtype")


def lab_table(sweep: SweepResult) -> Table:
    """Return one row a variant in the lab's columns, and one for each failure with its error."""
    tried = variants(sweep)
    every = setups(tried)
    names, sizes = setup_names(every), sorted({size for one in tried for size in one.sizes})
    places = place_names(every)
    folded = any(len(one.reports) > 1 for one in tried)
    columns = [*LAB, "Settings", "Size (MB)", "Params"]
    columns += [_headed("Accuracy", name if len(places) > 1 else "") for name in places.values()]
    columns += [_headed(f"Latency B{size} (ms)", names[setup]) for setup in every for size in sizes]
    columns += ["Seeds", "Failed"]
    rows = []
    for same in _rows(tried).values():
        first, reports = same[0], [report for one in same for report in one.reports.values()]
        by_setup = {one.setup: one for one in same}
        cells = [first.task, first.quant, first.precision, settings_text(first.settings)]
        cells += [
            size_text(spread([report.result.size_mb for report in reports]).mean),
            f"{reports[0].result.size.parameters:,}",
        ]
        cells += [_accuracy(one for one in same if one.setup and one.setup.place == place) for place in places]
        cells += [_latency(by_setup.get(setup), size) for setup in every for size in sizes]
        rows.append([*cells, str(len({report.seed for report in reports})) if folded else "", ""])
    for one in tried:
        for entry in one.entries if one.setup is None else ():
            cells = [one.task, one.quant, one.precision, _settings(one, entry, folded)]
            rows.append([*cells, *[""] * (len(columns) - len(cells) - 1), error_text(entry)])
    return without_empty(columns, rows, tuple(_notes(sweep, every, folded)))


def full_table(sweep: SweepResult) -> Table:
    """Return a row a run and batch size: intervals, what changed against float, verdicts, and numbered notes."""
    tried = variants(sweep)
    every = setups(tried)
    names, several = setup_names(every), len({report.seed for report in sweep.reports}) > 1
    columns = [*LAB, "Settings", "Setup", "Seed", "Size (MB)", "Accuracy (%)", "Against float", "Verdict"]
    columns += ["Batch", "Latency (ms)", "Times as fast as float", "Notes", "Failed"]
    said: dict[str, int] = {}
    rows: list[list[str]] = []
    for one in tried:
        for entry in one.entries:
            cells = [one.task, one.quant, one.precision, settings_text(one.settings)]
            cells += [names[one.setup] if one.setup else "", entry.settings.get("seed", "") if several else ""]
            if report := entry.report:
                cells[5] = str(report.seed) if several else ""
                rows += _full_rows(cells, report, said)
            else:
                rows.append([*cells, *[""] * (len(columns) - len(cells) - 1), error_text(entry)])
    numbered = (f"[{number}] {text}" for text, number in said.items())
    return without_empty(columns, rows, (*_notes(sweep, every, False), *numbered))


def seeds_table(sweep: SweepResult) -> Table | None:
    """Return each two methods compared over the seeds that both have, None where no two share two seeds."""
    found = networks(sweep)
    names = setup_names([one.setup for one in found])
    sizes = sorted({size for one in found for size in one.sizes})
    columns = ["Task", "Settings", "Setup", "Compared", "Seeds", "Accuracy (points)", "Verdict"]
    columns += [f"Times as fast B{size}" for size in sizes]
    rows = []
    for one in found:
        for reference, other in combinations(one.variants, 2):
            change = paired(other.accuracies(), reference.accuracies(), other.step)
            if change is None:
                continue
            cells = [one.task, settings_text(one.settings), names[one.setup]]
            cells += [f"{other.method} against {reference.method}", str(change.n)]
            cells += [f"{100 * change.mean:+z.2f} [{100 * change.low:+z.2f}, {100 * change.high:+z.2f}]"]
            cells += [_better(change)]
            rows.append([*cells, *(_times(other, reference, size) for size in sizes)])
    if not rows:
        return None
    said = (
        "Differences are taken seed by seed. [ ]: 95 % interval, Student's t over the seeds; of a speedup over its "
        "logarithms. Both methods' latencies are compared through the float model, with which each was timed in turn.",
        f"{len(rows)} comparisons, each at the 5 % level: of those of equal methods about one in twenty is told apart.",
    )
    return without_empty(columns, rows, said)


def sweep_csv(sweep: SweepResult) -> str:
    """Return the lab's table as CSV, a row a run that is done: accuracy in [0, 1], milliseconds, MB."""
    sizes = sorted({one.batch_size for report in sweep.reports for one in report.result.latency})
    columns = [*LAB, "Size (MB)", "Params", "Accuracy"]
    columns += [f"Latency B{size} {what} (ms)" for size in sizes for what in ("mean", "std")]
    columns += ["Seed", "Benchmark", "Threads", "Host", "Machine"]
    levers = _levers(sweep)
    lines: list[Sequence[object]] = [[*columns, *levers]]
    for one, entry in _entries(sweep):
        if report := entry.report:
            model, settings = report.result, dict(one.settings)
            of_size = {latency.batch_size: latency for latency in model.latency}
            line: list[object] = [report.task_name, report.quant, report.precision]
            line += [round(model.size_mb, 6), model.size.parameters, round(model.accuracy.value, 6)]
            for size in sizes:
                latency = of_size.get(size)
                line += [round(latency.mean_ms, 6), round(latency.std_ms, 6)] if latency else ["", ""]
            line += [report.seed, report.benchmark, report.threads, report.host, report.machine]
            lines.append([*line, *(settings.get(name, "") for name in levers)])
    return _csv(lines)


def full_csv(sweep: SweepResult) -> str:
    """Return every figure of every combination under its public name, a row a run.

    Failures have their error, combinations that do not exist the reason, and neither has figures.
    """
    levers = _levers(sweep)
    figures = {entry.run_id: metrics(entry.report) for entry in sweep.entries if entry.report}
    names = list(dict.fromkeys(name for named in figures.values() for name in named))
    told = ["run", "name", "task", "quant", "precision", "seed", "host", "machine", "protocol", "threads"]
    lines: list[Sequence[object]] = [
        [*told, *levers, *names, "verdict_accuracy", "unstable_because", "error", "unsupported"]
    ]
    for one, entry in _entries(sweep):
        report, setup, settings = entry.report, one.setup, dict(one.settings)
        line: list[object] = [entry.run_id, entry.name, one.task, one.quant, one.precision]
        line += [report.seed if report else entry.settings.get("seed", "")]
        line += [setup.host, setup.machine, setup.protocol, setup.threads] if setup else [""] * 4
        line += [settings.get(name, "") for name in levers]
        line += [figures.get(entry.run_id, {}).get(name, "") for name in names]
        line += [report.comparison.accuracy_verdict if report and report.comparison else ""]
        lines.append([*line, "; ".join(report.unstable) if report else "", entry.error or "", ""])
    for absent in sweep.unsupported:
        known = [absent.settings.get(name, "") for name in ("task", "quant")]
        known += ["", absent.settings.get("seed", "")]
        line = ["", " ".join(absent.asked), *known, *[""] * 4, *(absent.settings.get(name, "") for name in levers)]
        lines.append([*line, *[""] * (len(lines[0]) - len(line) - 1), absent.reason])
    return _csv(lines)


def sentences(sweep: SweepResult) -> list[str]:
    """Say what is not in the tables: combinations that failed, that do not exist, and those not yet run."""
    said = []
    total = len(sweep.entries) + len(sweep.unreadable) + sweep.left
    if sweep.failed:
        said.append(f"{len(sweep.failed)} of {total} combinations failed.")
    if sweep.unreadable:
        said.append(
            f"{len(sweep.unreadable)} recorded results cannot be read and are not in the table; see the report."
        )
    if sweep.unsupported:
        many = len(sweep.unsupported)
        said.append(f"Of what was asked for {many} {'does' if many == 1 else 'do'} not exist; the report says why.")
    if sweep.left:
        verb = "is" if sweep.left == 1 else "are"
        again = f"the same command with {shlex.quote(f'sweep.name={sweep.name}')} goes on"
        said.append(f"{sweep.left} of {total} combinations {verb} not yet run; {again}.")
    return said


def _full_rows(cells: list[str], report: Report, said: dict[str, int]) -> Iterator[list[str]]:
    """Yield a row a batch size; what is the same in all of them stands in the first."""
    comparison = report.comparison
    cells = [*cells, size_text(report.result.size_mb), accuracy_text(report.result), "", ""]
    if comparison:
        flips = f"{comparison.flips_gained} gained, {comparison.flips_lost} lost"
        p_value = p_text(comparison.p_value)
        cells[-2:] = [
            f"{100 * (0 - comparison.accuracy_drop):+z.2f}: {flips}",
            f"{comparison.accuracy_verdict}, {p_value}",
        ]
    of_size = {one.batch_size: one for one in comparison.speedups} if comparison else {}
    if not report.result.latency:
        yield [*cells, "", "", "", "", ""]
    for latency in report.result.latency:
        size = latency.batch_size
        texts = [f"unstable: {why}" for one in report.conditions if one.batch_size == size for why in one.unstable]
        texts += _reasons(comparison.not_faster if comparison else (), size)
        numbers = ", ".join(f"[{said.setdefault(text, len(said) + 1)}]" for text in texts)
        ratio = speedup_text(of_size[size]) if size in of_size else ""
        yield [*cells, str(size), mean_std(latency), ratio, numbers, ""]
        cells = [""] * len(cells)


def _reasons(not_faster: Sequence[NotFaster], size: int) -> list[str]:
    return [f"not faster: {'; '.join(one.reasons)}" for one in not_faster if one.batch_size == size]


def _rows(tried: Sequence[Variant]) -> dict[tuple[object, ...], list[Variant]]:
    """Put together what was measured of one thing in several setups."""
    rows: dict[tuple[object, ...], list[Variant]] = defaultdict(list)
    for one in tried:
        if one.setup:
            rows[one.task, one.quant, one.precision, one.settings].append(one)
    return rows


def _accuracy(ones: Iterator[Variant]) -> str:
    of_seed = {seed: value for one in ones for seed, value in one.accuracies().items()}
    if not of_seed:
        return ""
    found = spread([100 * value for value in of_seed.values()])
    return f"{found.mean:.2f} %" if found.std is None else f"{found.mean:.2f} ± {found.std:.2f} %"


def _latency(one: Variant | None, size: int) -> str:
    """Return mean ± deviation: over the seeds where there are several, else over what was timed."""
    measured = list(one.latencies(size).values()) if one else []
    if one is None or not measured:
        return ""
    mark = "*" * one.unstable(size)
    if len(measured) == 1:
        return mean_std(measured[0]) + mark
    found = spread([latency.mean_ms for latency in measured])
    return f"{found.mean:.3f} ± {found.std:.3f}{mark}"


def _times(other: Variant, reference: Variant, size: int) -> str:
    """Return how many times as fast one method is as another, over the seeds."""
    ratio = over_seeds(other, reference, size)
    return f"{ratio} {ratio.verdict}" if ratio else ""


def _better(change: Difference) -> str:
    return ("better" if change.mean > 0 else "worse") if change.told else "not told apart"


def _notes(sweep: SweepResult, every: Sequence[Setup], folded: bool) -> Iterator[str]:
    """Say what the cells mean, where and on what they were measured, and what is missing."""
    if sweep.reports:
        yield from notes(sweep.reports)
    if folded:
        yield "Rows of several seeds: mean ± std over the seeds, of accuracy and of the mean latencies."
    places = place_names(every)
    for (host, machine), name in places.items():
        yield f"Measured on {name if len(places) > 1 else host}: {machine}."
    if len(every) > 1:
        yield (
            f"{len(every)} setups ({'; '.join(setup_names(every).values())}): "
            "latencies of different setups do not compare."
        )
    if any(name == "data" for one in variants(sweep) for name, _ in one.settings):
        yield "data=: the runs of a task read different files; accuracies on different data do not compare."
    yield from sentences(sweep)


def _settings(one: Variant, entry: Entry, folded: bool) -> str:
    seed = f"seed={entry.settings['seed']}" if folded and "seed" in entry.settings else ""
    return ", ".join(text for text in (settings_text(one.settings), seed) if text)


def error_text(entry: Entry) -> str:
    """Return the error of a failure in a short line."""
    text = " ".join((entry.error or "no result is recorded").split())
    return text if len(text) <= LONGEST_ERROR else f"{text[: LONGEST_ERROR - 3]}..."


def _headed(name: str, part: str) -> str:
    return f"{name}, {part}" if part else name


def without_empty(columns: Sequence[str], rows: Sequence[Sequence[str]], said: tuple[str, ...]) -> Table:
    """Return the table without the columns in which no row has anything."""
    kept = [at for at, _ in enumerate(columns) if any(row[at] for row in rows)]
    return Table(tuple(columns[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows), said)


def _entries(sweep: SweepResult) -> Iterator[tuple[Variant, Entry]]:
    """Yield each combination with its variant, in the order of the sweep."""
    of_run = {id(entry): one for one in variants(sweep) for entry in one.entries}
    return ((of_run[id(entry)], entry) for entry in sweep.entries)


def _levers(sweep: SweepResult) -> list[str]:
    return list(dict.fromkeys(name for one in variants(sweep) for name, _ in one.settings))


def _csv(lines: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()

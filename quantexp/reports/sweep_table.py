"""The tables of a sweep: the summary, all runs, and methods compared over seeds.

The summary has a row per variant: runs that differ only in their seed become mean ± standard deviation. Each setup
(machine, protocol, threads) has columns of its own, so that no column mixes them. The table of all runs has a row per
run and batch size.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from quantexp.analysis.best import best, objectives
from quantexp.analysis.foremost import leading
from quantexp.analysis.methods import method_pairs
from quantexp.analysis.names import place_names, setup_names
from quantexp.analysis.quality import quality_percent
from quantexp.analysis.ratios import energy_over_float, over_float
from quantexp.analysis.seeds import spread
from quantexp.analysis.settings import settings_text
from quantexp.analysis.values import energy_mj, latency_ms
from quantexp.analysis.variants import Setup, Variant, across_setups, networks, setups, variants
from quantexp.reports.cells import (
    closeness_cells,
    energy_ratio_text,
    energy_text,
    error_text,
    known,
    mean_std,
    quality_text,
    ratio_text,
    speedup_text,
    spread_text,
)
from quantexp.reports.notes import notes
from quantexp.reports.table import Table
from quantexp.results import Comparison, Report
from quantexp.results.sweep import Entry, SweepResult
from quantexp.results.text import change_text, megaflops_text, p_text, significant_text, size_text

OWN_FLOAT = (
    "Each row is a run of its own, in which the float model was timed beside the quantized one: compare methods by "
    "their speedups over it (x), not by the latencies of two rows."
)
SUMMARY = ("Task", "Quantization", "dtype")
SHORT = 50  # rows of a summary that is read without another one above
CLOSENESS = ("Agreement (%)", "SQNR (dB)")


def leading_table(sweep: SweepResult) -> Table | None:
    """Return the rows of the summary that are on a Pareto front, None if the summary is short."""
    total = len(variants(sweep))
    if total <= SHORT:
        return None
    front = {_key(variant) for variant in leading(networks(sweep))}
    found = [variant for variant in variants(sweep) if _key(variant) in front]
    note = (
        f"{len(found)} of {total:,}: no other one of the same task and setup is better in both quality and latency, at "
        "the smallest or the largest batch size, or in both quality and size. The summary has all."
    )
    return replace(_summary(sweep, found), notes=(note,)) if found else None


def _key(variant: Variant) -> tuple[object, ...]:
    return variant.task, variant.quant, variant.precision, variant.settings, variant.setup


def summary_table(sweep: SweepResult) -> Table:
    """Return a row per variant, and one per failed run with its error."""
    return _summary(sweep, variants(sweep))


def _summary(sweep: SweepResult, tried: Sequence[Variant]) -> Table:
    """Return a row for each of these variants."""
    every = setups(tried)
    names, sizes = setup_names(every), sorted({size for variant in tried for size in variant.sizes})
    places = place_names(every)
    folded = any(len(variant.reports) > 1 for variant in tried)
    unlabelled = any(variant.setup and not variant.labelled for variant in tried)
    columns = [*SUMMARY, "Settings", "Size (MB)", "Params", "MFLOPs"]
    columns += [_headed("Accuracy", name if len(places) > 1 else "") for name in places.values()]
    columns += CLOSENESS if unlabelled else ()
    columns += [_headed(f"Latency B{size} (ms)", names[setup]) for setup in every for size in sizes]
    columns += [_headed(f"Energy B{size} (mJ)", names[setup]) for setup in every for size in sizes]
    columns += ["Seeds", "Failed"]
    rows = []
    for alike in across_setups(tried):
        first, by_setup = alike[0], {variant.setup: variant for variant in alike}
        reports = [report for variant in alike for report in variant.reports.values()]
        cells = [first.task, first.quant, first.precision, settings_text(first.settings)]
        cells += [size_text(spread([report.result.size_mb for report in reports]).mean)]
        cells += [f"{reports[0].result.size.parameters:,}", megaflops_text(reports[0].flops)]
        cells += [_accuracy(other for other in alike if other.setup and other.setup.place == place) for place in places]
        cells += closeness_cells(first) if unlabelled else ()
        cells += [_latency(by_setup.get(setup), size) for setup in every for size in sizes]
        cells += [_energy(by_setup.get(setup), size) for setup in every for size in sizes]
        rows.append((*cells, str(len({report.seed for report in reports})) if folded else "", ""))
    for variant in tried:
        for entry in variant.entries if variant.setup is None else ():
            cells = [variant.task, variant.quant, variant.precision, _settings(variant, entry, folded)]
            rows.append((*cells, *[""] * (len(columns) - len(cells) - 1), error_text(entry)))
    timed = any(report.comparison and report.comparison.speedups for report in sweep.reports)
    told = [*_notes(sweep, every, folded), *([OWN_FLOAT] if timed else [])]
    return Table(tuple(columns), tuple(rows), tuple(told)).compact()


def full_table(sweep: SweepResult) -> Table:
    """Return a row per run and batch size: intervals, changes vs float, verdicts, and numbered notes."""
    tried = variants(sweep)
    every = setups(tried)
    names, several = setup_names(every), len({report.seed for report in sweep.reports}) > 1
    columns = [
        *SUMMARY,
        "Settings",
        "Setup",
        "Seed",
        "Size (MB)",
        "MFLOPs",
        "Accuracy (%)",
        "vs float",
        "Verdict",
        *CLOSENESS,
    ]
    columns += ["Batch", "Latency (ms)", "Speedup", "Energy (mJ)", "Energy ratio", "Notes", "Failed"]
    unlabelled = any(variant.setup and not variant.labelled for variant in tried)
    numbers: dict[str, int] = {}
    rows: list[tuple[str, ...]] = []
    for variant in tried:
        for entry in variant.entries:
            cells = [variant.task, variant.quant, variant.precision, settings_text(variant.settings)]
            cells += [names[variant.setup] if variant.setup else ""]
            if report := entry.report:
                cells += [str(report.seed) if several else "", size_text(report.result.size_mb)]
                cells += [megaflops_text(report.flops)]
                cells += [*_quality_cells(report), *(_closeness_cells(report) if unlabelled else ("", ""))]
                rows += _full_rows(cells, report, numbers)
            else:
                cells += [entry.settings.get("seed", "") if several else ""]
                rows.append((*cells, *[""] * (len(columns) - len(cells) - 1), error_text(entry)))
    numbered = (f"[{number}] {text}" for text, number in numbers.items())
    return Table(tuple(columns), tuple(rows), (*_notes(sweep, every, False), *numbered)).compact()


def seeds_table(sweep: SweepResult) -> Table | None:
    """Return the pairs of methods compared over their shared seeds, None if no pair shares two seeds."""
    found = networks(sweep)
    names = setup_names([network.setup for network in found])
    sizes = sorted({size for network in found for size in network.sizes})
    columns = ("Task", "Settings", "Setup", "Compared", "Seeds", "Accuracy", "Verdict")
    rows = []
    for network in found:
        for pair in method_pairs(network):
            cells = [network.task, settings_text(network.settings), names[network.setup]]
            cells += [f"{pair.second.method} vs {pair.first.method}", str(pair.seeds)]
            cells += [str(pair.change), pair.change.verdict] if pair.change else ["", ""]
            rows.append((*cells, *(ratio_text(pair.speedup(size)) for size in sizes)))
    if not rows:
        return None
    meaning = (
        "Differences are computed per seed. [ ]: 95 % interval, Student's t over the seeds (for speedups, over their "
        "logarithms). The latencies of two methods are compared through the float model, which each was timed against.",
        f"{len(rows)} comparisons at the 5 % level: between equal methods, one in twenty is significant by chance.",
    )
    return Table((*columns, *(f"Speedup B{size}" for size in sizes)), tuple(rows), meaning).compact()


def search_notes(sweep: SweepResult) -> Iterator[str]:
    """Yield the best runs of a search, with the values of its objectives."""
    wanted, found = objectives(sweep), best(sweep)
    by = ", ".join(objective.name for objective in wanted)
    if wanted and not found:
        yield f"Best by {by}: no finished run has a value."
    for one in found:
        values = ", ".join(f"{objective.name} {value:.4g}" for objective, value in zip(wanted, one.values, strict=True))
        title = "Best" if len(wanted) == 1 else "Not beaten"
        yield f"{title} by {by}: {one.entry.name} ({values}; run {one.entry.run_id})."


def progress_notes(sweep: SweepResult) -> Iterator[str]:
    """Yield how many combinations failed, are not supported, and remain."""
    total = len(sweep.entries) + len(sweep.unreadable) + sweep.left
    if sweep.failed:
        yield f"{len(sweep.failed)} of {total} combinations failed."
    if sweep.unreadable:
        yield f"{len(sweep.unreadable)} recorded results cannot be read and are not in the table; see the report."
    if sweep.unsupported:
        count = len(sweep.unsupported)
        further = "combination is" if count == 1 else "combinations are"
        yield f"{count} further {further} not supported; the report lists the reasons."
    if sweep.left:
        verb = "remains" if sweep.left == 1 else "remain"
        again = f"run the same command with {shlex.quote(f'sweep.name={sweep.name}')} to resume"
        yield f"{sweep.left} of {total} combinations {verb}; {again}."


def _quality_cells(report: Report) -> tuple[str, str, str]:
    """Return the quality, its change vs float and the verdict; nothing without labels."""
    change = report.comparison.quality if report.comparison else None
    quality = quality_text(report.result.quality) if report.result.quality else ""
    return (
        (quality, change_text(change), f"{change.verdict}, {p_text(change.p_value)}") if change else (quality, "", "")
    )


def _closeness_cells(report: Report) -> tuple[str, str]:
    comparison = report.comparison
    return (f"{100 * comparison.agreement:.2f}", known(comparison.output_sqnr_db, 1)) if comparison else ("", "")


def _full_rows(cells: Sequence[str], report: Report, numbers: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Yield a row per batch size; the first one has the cells that are the same in all of them."""
    speedups = report.comparison.speedups if report.comparison else ()
    ratios = report.comparison.energy_ratios if report.comparison else ()
    of_size = {speedup.batch_size: speedup_text(speedup) for speedup in speedups}
    of_energy = {ratio.batch_size: energy_ratio_text(ratio) for ratio in ratios}
    if not report.result.latency:
        yield (*cells, *[""] * 7)
    for latency in report.result.latency:
        size = latency.batch_size
        unstable = [why for found in report.conditions if found.batch_size == size for why in found.unstable]
        found = [finding.text for finding in report.findings]
        texts = [*found, *(f"unstable: {why}" for why in unstable), *_reasons(report.comparison, size)]
        refs = ", ".join(f"[{numbers.setdefault(text, len(numbers) + 1)}]" for text in texts)
        energy = energy_text(latency.energy) if latency.energy else ""
        figures = mean_std(latency), of_size.get(size, ""), energy, of_energy.get(size, "")
        yield (*cells, str(size), *figures, refs, "")
        cells = [""] * len(cells)


def _reasons(comparison: Comparison | None, size: int) -> list[str]:
    found = comparison.not_faster if comparison else ()
    return [f"not faster: {'; '.join(slow.reasons)}" for slow in found if slow.batch_size == size]


def _accuracy(alike: Iterator[Variant]) -> str:
    text = spread_text(quality_percent(alike), 2)
    return f"{text} %" if text else ""


def _latency(variant: Variant | None, size: int) -> str:
    """Return mean ± standard deviation, with an asterisk if it is unstable, and the speedup over float."""
    if variant is None or not (text := spread_text(latency_ms(variant, size), 3)):
        return ""
    ratio = over_float(variant, size)
    return f"{text}{'*' if variant.unstable(size) else ''}{f', {ratio.short}' if ratio else ''}"


def _energy(variant: Variant | None, size: int) -> str:
    """Return the energy, over several seeds ± standard deviation, and how many times that of float is as much."""
    if variant is None or not (found := energy_mj(variant, size)):
        return ""
    deviation = "" if found.std is None else f" ± {significant_text(found.std)}"
    ratio = energy_over_float(variant, size)
    unstable = "*" * variant.unstable(size)
    return f"{significant_text(found.mean)}{deviation}{unstable}{f', {ratio.short}' if ratio else ''}"


def _notes(sweep: SweepResult, every: Sequence[Setup], folded: bool) -> Iterator[str]:
    """Yield what a search found, what the cells mean, where they were measured, and what is missing."""
    yield from search_notes(sweep)
    if sweep.reports:
        yield from notes(sweep.reports)
    if folded:
        yield "Rows with several seeds: mean ± std over the seeds; of latencies, over the mean of each seed."
    places = place_names(every)
    for (host, machine), name in places.items():
        yield f"Measured on {name if len(places) > 1 else host}: {machine}."
    if len(every) > 1:
        yield (
            f"{len(every)} setups ({'; '.join(setup_names(every).values())}): "
            "latencies of different setups are not comparable."
        )
    if any(name == "data" for variant in variants(sweep) for name, _ in variant.settings):
        yield "data=: runs of a task used different files; accuracies on different data are not comparable."
    yield from progress_notes(sweep)


def _settings(variant: Variant, entry: Entry, folded: bool) -> str:
    seed = f"seed={entry.settings['seed']}" if folded and "seed" in entry.settings else ""
    return ", ".join(text for text in (settings_text(variant.settings), seed) if text)


def _headed(name: str, part: str) -> str:
    return f"{name}, {part}" if part else name

"""The tables of a sweep: the lab's, the full one, and methods compared over seeds.

The lab's table has a row a variant: runs that differ only in their seed are folded into mean ± standard deviation.
What was measured in several setups (machines, protocols, threads) has a column for each, so that no column mixes
them. The full table has a row a run and batch size.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from quantexp.analysis.methods import over_shared_seeds
from quantexp.analysis.names import place_names, setup_names
from quantexp.analysis.quality import quality_percent
from quantexp.analysis.seeds import spread
from quantexp.analysis.settings import settings_text
from quantexp.analysis.values import latency_ms
from quantexp.analysis.variants import Setup, Variant, across_setups, networks, setups, variants
from quantexp.reports.cells import (
    closeness_cells,
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
from quantexp.results.sweep import Entry, Sweep
from quantexp.results.text import change_text, p_text, size_text

LAB = ("Task", "Quantization", "dtype")
CLOSENESS = ("Agreement (%)", "SQNR (dB)")


def lab_table(sweep: Sweep) -> Table:
    """Return one row a variant in the lab's columns, and one for each failure with its error."""
    tried = variants(sweep)
    every = setups(tried)
    names, sizes = setup_names(every), sorted({size for variant in tried for size in variant.sizes})
    places = place_names(every)
    folded = any(len(variant.reports) > 1 for variant in tried)
    unlabelled = any(variant.setup and not variant.labelled for variant in tried)
    columns = [*LAB, "Settings", "Size (MB)", "Params"]
    columns += [_headed("Accuracy", name if len(places) > 1 else "") for name in places.values()]
    columns += CLOSENESS if unlabelled else ()
    columns += [_headed(f"Latency B{size} (ms)", names[setup]) for setup in every for size in sizes]
    columns += ["Seeds", "Failed"]
    rows = []
    for alike in across_setups(tried):
        first, by_setup = alike[0], {variant.setup: variant for variant in alike}
        reports = [report for variant in alike for report in variant.reports.values()]
        cells = [first.task, first.quant, first.precision, settings_text(first.settings)]
        cells += [size_text(spread([report.result.size_mb for report in reports]).mean)]
        cells += [f"{reports[0].result.size.parameters:,}"]
        cells += [_accuracy(one for one in alike if one.setup and one.setup.place == place) for place in places]
        cells += closeness_cells(first) if unlabelled else ()
        cells += [_latency(by_setup.get(setup), size) for setup in every for size in sizes]
        rows.append((*cells, str(len({report.seed for report in reports})) if folded else "", ""))
    for variant in tried:
        for entry in variant.entries if variant.setup is None else ():
            cells = [variant.task, variant.quant, variant.precision, _settings(variant, entry, folded)]
            rows.append((*cells, *[""] * (len(columns) - len(cells) - 1), error_text(entry)))
    return Table(tuple(columns), tuple(rows), tuple(_notes(sweep, every, folded))).compact()


def full_table(sweep: Sweep) -> Table:
    """Return a row a run and batch size: intervals, what changed against float, verdicts, and numbered notes."""
    tried = variants(sweep)
    every = setups(tried)
    names, several = setup_names(every), len({report.seed for report in sweep.reports}) > 1
    columns = [*LAB, "Settings", "Setup", "Seed", "Size (MB)", "Accuracy (%)", "Against float", "Verdict", *CLOSENESS]
    columns += ["Batch", "Latency (ms)", "Times as fast as float", "Notes", "Failed"]
    unlabelled = any(variant.setup and not variant.labelled for variant in tried)
    said: dict[str, int] = {}
    rows: list[tuple[str, ...]] = []
    for variant in tried:
        for entry in variant.entries:
            cells = [variant.task, variant.quant, variant.precision, settings_text(variant.settings)]
            cells += [names[variant.setup] if variant.setup else ""]
            if report := entry.report:
                cells += [str(report.seed) if several else "", size_text(report.result.size_mb)]
                cells += [*_quality_cells(report), *(_closeness_cells(report) if unlabelled else ("", ""))]
                rows += _full_rows(cells, report, said)
            else:
                cells += [entry.settings.get("seed", "") if several else ""]
                rows.append((*cells, *[""] * (len(columns) - len(cells) - 1), error_text(entry)))
    numbered = (f"[{number}] {text}" for text, number in said.items())
    return Table(tuple(columns), tuple(rows), (*_notes(sweep, every, False), *numbered)).compact()


def seeds_table(sweep: Sweep) -> Table | None:
    """Return each two methods compared over the seeds that both have, None where no two share two seeds."""
    found = networks(sweep)
    names = setup_names([network.setup for network in found])
    sizes = sorted({size for network in found for size in network.sizes})
    columns = ("Task", "Settings", "Setup", "Compared", "Seeds", "Accuracy", "Verdict")
    rows = []
    for network in found:
        for duel in over_shared_seeds(network):
            cells = [network.task, settings_text(network.settings), names[network.setup]]
            cells += [f"{duel.second.method} against {duel.first.method}", str(duel.seeds)]
            cells += [str(duel.change), duel.change.verdict] if duel.change else ["", ""]
            rows.append((*cells, *(ratio_text(duel.speedup(size)) for size in sizes)))
    if not rows:
        return None
    said = (
        "Differences are taken seed by seed. [ ]: 95 % interval, Student's t over the seeds; of a speedup over its "
        "logarithms. Both methods' latencies are compared through the float model, with which each was timed in turn.",
        f"{len(rows)} comparisons, each at the 5 % level: of those of equal methods about one in twenty is told apart.",
    )
    return Table((*columns, *(f"Times as fast B{size}" for size in sizes)), tuple(rows), said).compact()


def sentences(sweep: Sweep) -> list[str]:
    """Say what is not in the tables: combinations that failed, that do not exist, and those not yet run."""
    said = []
    total = len(sweep.entries) + sweep.left
    if sweep.failed:
        said.append(f"{len(sweep.failed)} of {total} combinations failed.")
    if sweep.unsupported:
        many = len(sweep.unsupported)
        said.append(f"Of what was asked for {many} {'does' if many == 1 else 'do'} not exist; the report says why.")
    if sweep.left:
        verb = "is" if sweep.left == 1 else "are"
        again = f"the same command with {shlex.quote(f'sweep.name={sweep.name}')} goes on"
        said.append(f"{sweep.left} of {total} combinations {verb} not yet run; {again}.")
    return said


def _quality_cells(report: Report) -> tuple[str, str, str]:
    """Return the quality, its change against float, and what is told of it; nothing without labels."""
    change = report.comparison.quality if report.comparison else None
    quality = quality_text(report.result.quality) if report.result.quality else ""
    return (
        (quality, change_text(change), f"{change.verdict}, {p_text(change.p_value)}") if change else (quality, "", "")
    )


def _closeness_cells(report: Report) -> tuple[str, str]:
    comparison = report.comparison
    return (f"{100 * comparison.agreement:.2f}", known(comparison.output_sqnr_db, 1)) if comparison else ("", "")


def _full_rows(cells: Sequence[str], report: Report, said: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Yield a row a batch size; what is the same in all of them stands in the first."""
    speedups = report.comparison.speedups if report.comparison else ()
    of_size = {speedup.batch_size: speedup_text(speedup) for speedup in speedups}
    if not report.result.latency:
        yield (*cells, "", "", "", "", "")
    for latency in report.result.latency:
        size = latency.batch_size
        unstable = [why for found in report.conditions if found.batch_size == size for why in found.unstable]
        texts = [*(f"unstable: {why}" for why in unstable), *_reasons(report.comparison, size)]
        numbers = ", ".join(f"[{said.setdefault(text, len(said) + 1)}]" for text in texts)
        yield (*cells, str(size), mean_std(latency), of_size.get(size, ""), numbers, "")
        cells = [""] * len(cells)


def _reasons(comparison: Comparison | None, size: int) -> list[str]:
    found = comparison.not_faster if comparison else ()
    return [f"not faster: {'; '.join(slow.reasons)}" for slow in found if slow.batch_size == size]


def _accuracy(alike: Iterator[Variant]) -> str:
    text = spread_text(quality_percent(alike), 2)
    return f"{text} %" if text else ""


def _latency(variant: Variant | None, size: int) -> str:
    """Return mean ± deviation, marked where it is unstable."""
    text = spread_text(latency_ms(variant, size), 3) if variant else ""
    return f"{text}*" if text and variant and variant.unstable(size) else text


def _notes(sweep: Sweep, every: Sequence[Setup], folded: bool) -> Iterator[str]:
    """Say what the cells mean, where and on what they were measured, and what is missing."""
    if sweep.reports:
        yield from notes(sweep.reports)
    if folded:
        yield "Rows of several seeds: mean ± std over the seeds, of latencies that of their means."
    places = place_names(every)
    for (host, machine), name in places.items():
        yield f"Measured on {name if len(places) > 1 else host}: {machine}."
    if len(every) > 1:
        yield (
            f"{len(every)} setups ({'; '.join(setup_names(every).values())}): "
            "latencies of different setups do not compare."
        )
    if any(name == "data" for variant in variants(sweep) for name, _ in variant.settings):
        yield "data=: the runs of a task read different files; accuracies on different data do not compare."
    yield from sentences(sweep)


def _settings(variant: Variant, entry: Entry, folded: bool) -> str:
    seed = f"seed={entry.settings['seed']}" if folded and "seed" in entry.settings else ""
    return ", ".join(text for text in (settings_text(variant.settings), seed) if text)


def _headed(name: str, part: str) -> str:
    return f"{name}, {part}" if part else name

"""A table per network: a row per method with its settings, its change vs float, and what inspection found.

Failed runs are rows with their error. Combinations that are not supported have a table of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from quantexp.analysis.foremost import foremost_networks
from quantexp.analysis.names import network_title, setup_names
from quantexp.analysis.quality import change_from_float, quality_percent
from quantexp.analysis.ratios import over_float, over_runtime
from quantexp.analysis.settings import LEFT_OPEN
from quantexp.analysis.values import size_mb
from quantexp.analysis.variants import Network, Variant, networks, variants
from quantexp.reports.cells import closeness_cells, error_text, ratio_text, significance, spread_text
from quantexp.reports.notes import EAGER
from quantexp.reports.table import Table
from quantexp.results import Report
from quantexp.results.sweep import SweepResult, UnsupportedEntry
from quantexp.results.text import mac_share_text, megaflops_text, size_text, threads_text

EVIDENCE = "Layers in dtype: with weights in it. MACs in dtype: share of float's multiply-accumulates that ran in it."
LABELLED = (
    "vs float: change of accuracy, and the examples that only quantized (+) or only float (-) gets right, by the exact "
    "McNemar test; with several seeds the mean difference."
)
UNLABELLED = "Agreement: examples with the same prediction as float. SQNR: energy of float's outputs over the error's."
PAIRED = "Speedup: paired, [ ]: 95 % interval, * unstable."
UNPAIRED = "Speedup: ratio of the mean latencies, without an interval, * unstable."


def network_tables(sweep: SweepResult, most: int | None = None) -> list[tuple[str, Table]]:
    """Return a title and a table for each network with at least two methods.

    With `most`, there are at most so many tables, those of networks with a variant on a Pareto front first; a note in
    the last one says where the others are.
    """
    found = networks(sweep)
    names = setup_names([network.setup for network in found])
    failed: dict[object, list[Variant]] = defaultdict(list)
    for variant in variants(sweep):
        if not variant.setup:
            failed[variant.task, variant.network].append(variant)
    # The float network is one of them.
    having = [one for one in found if len(one.variants) + len(failed[one.task, one.settings]) > 2]
    shown = having if most is None else foremost_networks(having, most)
    tables = [(network_title(one, names), _table(one, failed[one.task, one.settings])) for one in shown]
    if len(shown) < len(having):
        title, last = tables[-1]
        left = f"{len(shown)} of {len(having):,} networks have a table here; networks.md has those of all."
        tables[-1] = title, replace(last, notes=(*last.notes, left))
    return tables


def unsupported_table(sweep: SweepResult) -> Table | None:
    """Return the combinations that are not supported, a row per reason; None if there are none."""
    of_reason: dict[str, list[UnsupportedEntry]] = defaultdict(list)
    for entry in sweep.unsupported:
        of_reason[entry.reason].append(entry)
    rows = tuple((reason, str(len(entries)), _requested(entries)) for reason, entries in of_reason.items())
    return Table(("Not supported", "Combinations", "Requested by"), rows, ()) if rows else None


def _table(network: Network, failed: Sequence[Variant]) -> Table:
    every = [*network.variants, *failed]
    options = list(
        dict.fromkeys(name for variant in every for name, _ in variant.settings if name.startswith("quant."))
    )
    columns = ["Quantization", "dtype", *(name.removeprefix("quant.") for name in options), "Size (MB)"]
    columns += ["Accuracy (%)", "vs float", "Significant?"] if network.labelled else ["Agreement (%)", "SQNR (dB)"]
    columns += ["Layers in dtype", "MACs in dtype", *(f"Speedup B{size}" for size in network.sizes)]
    columns += [f"Speedup over {runtime} float B{size}" for runtime in network.runtimes for size in network.sizes]
    rows = []
    for variant in every:
        settings = {name: value for name, value in variant.settings if value != LEFT_OPEN}
        cells = [variant.quant, variant.precision, *(settings.get(name, "") for name in options)]
        if variant.setup:
            rows.append((*cells, *_figures(network, variant), *_speedups(network, variant), ""))
        else:
            blank = [""] * (len(columns) - len(cells))
            rows += [(*cells, *blank, error_text(entry)) for entry in variant.entries]
    setup = network.setup
    executed = "" if network.runtime == EAGER else f"runtime {network.runtime}, "
    where = f"{setup.host}: {setup.machine}; {setup.protocol}, {executed}{threads_text(setup.threads)}."
    flops = f"MFLOPs of the float network for one example: {megaflops_text(network.flops)}."
    ratios = [over_float(variant, size) for variant in network.variants for size in network.sizes]
    speedups = PAIRED if any(ratio and ratio.reach is not None for ratio in ratios) else UNPAIRED
    meaning = " ".join((EVIDENCE, LABELLED if network.labelled else UNLABELLED, speedups))
    return Table((*columns, "Failed"), tuple(rows), (meaning, flops, where)).compact()


def _figures(network: Network, variant: Variant) -> Iterator[str]:
    """Yield size, accuracy and its change (without labels agreement and SQNR), and what inspection found."""
    yield size_text(size_mb(variant).mean)
    if network.labelled:
        change = change_from_float(variant)
        yield spread_text(quality_percent([variant]), 2)
        yield from (str(change), significance(change)) if change else ("", "")
    else:
        yield from closeness_cells(variant)
    yield from ("", "") if variant.is_float else _evidence(next(iter(variant.reports.values())))


def _evidence(report: Report) -> tuple[str, str]:
    evidence = report.result.evidence
    held = f"{len(evidence.held(report.precision))} of {len(evidence.layers)}"
    return held, mac_share_text(evidence, report.precision)


def _speedups(network: Network, variant: Variant) -> Iterator[str]:
    for size in network.sizes:
        yield ratio_text(over_float(variant, size), unstable=variant.unstable(size))
    for runtime in network.runtimes:
        for size in network.sizes:
            yield ratio_text(over_runtime(variant, runtime, size), unstable=variant.unstable(size))


def _requested(entries: Sequence[UnsupportedEntry]) -> str:
    """Return the overrides in a line, in the form of a sweep: `quant=static,qat quant.flow=torchao`."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for entry in entries:
        for text in entry.asked:
            name, _, value = text.partition("=")
            values[name][value] = None
    return " ".join(f"{name}={','.join(of_name)}" for name, of_name in values.items())

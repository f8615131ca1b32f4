"""What every method costs and buys on one network: a table a network, a row a method, its levers in columns.

Accuracy and speed stand there as what changed against the float network of the same seed, with what can be told of it;
beside them what inspection found, so that a method that lowered little is seen. What cannot be had is told apart: a
method that failed has its row with the error, combinations that do not exist have a table of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from quantexp.analysis.names import network_title, setup_names
from quantexp.analysis.quality import change_from_float, quality_percent
from quantexp.analysis.ratios import over_float, over_runtime
from quantexp.analysis.settings import LEFT_OPEN
from quantexp.analysis.values import size_mb
from quantexp.analysis.variants import Network, Variant, networks, variants
from quantexp.reports.cells import closeness_cells, error_text, ratio_text, spread_text
from quantexp.reports.notes import EAGER
from quantexp.reports.table import Table
from quantexp.results import Report
from quantexp.results.sweep import SweepResult, UnsupportedEntry
from quantexp.results.text import size_text, threads_text

EVIDENCE = (
    "Layers lowered: those that hold the dtype. Products lowered: the share of the multiply-accumulates that ran in it."
)
LABELLED = (
    "Against float: examples that only the quantized, or only the float model gets right, by the exact McNemar test; "
    "over several seeds the mean difference."
)
UNLABELLED = (
    "Agreement: examples of which float and quantized predict the same. SQNR: energy of the float outputs over that of "
    "their change."
)
PAIRED = "Times as fast: paired, [ ]: 95 % interval, * unstable."


def network_tables(sweep: SweepResult) -> list[tuple[str, Table]]:
    """Return a title and a table for each network that two methods or more were tried on."""
    tried, found = variants(sweep), networks(sweep)
    names = setup_names([network.setup for network in found])
    tables = []
    for network in found:
        of_network = network.task, network.settings
        failed = [variant for variant in tried if not variant.setup and (variant.task, variant.network) == of_network]
        if len(network.variants) + len(failed) > 2:  # the float network is one of them
            tables.append((network_title(network, names), _table(network, failed)))
    return tables


def unsupported_table(sweep: SweepResult) -> Table | None:
    """Return the combinations that do not exist, a row a reason; None if there are none."""
    of_reason: dict[str, list[UnsupportedEntry]] = defaultdict(list)
    for entry in sweep.unsupported:
        of_reason[entry.reason].append(entry)
    rows = tuple((reason, str(len(entries)), _asked(entries)) for reason, entries in of_reason.items())
    return Table(("Does not exist", "Combinations", "Among"), rows, ()) if rows else None


def _table(network: Network, failed: Sequence[Variant]) -> Table:
    every = [*network.variants, *failed]
    levers = list(dict.fromkeys(name for one in every for name, _ in one.settings if name.startswith("quant.")))
    columns = ["Quantization", "dtype", *(name.removeprefix("quant.") for name in levers), "Size (MB)"]
    columns += ["Accuracy (%)", "Against float", "Change told"] if network.labelled else ["Agreement (%)", "SQNR (dB)"]
    columns += ["Layers lowered", "Products lowered", *(f"Times as fast B{size}" for size in network.sizes)]
    columns += [f"Over {runtime} B{size}" for runtime in network.runtimes for size in network.sizes]
    rows = []
    for variant in every:
        settings = {name: value for name, value in variant.settings if value != LEFT_OPEN}
        cells = [variant.quant, variant.precision, *(settings.get(name, "") for name in levers)]
        if variant.setup:
            rows.append((*cells, *_figures(network, variant), *_speedups(network, variant), ""))
        else:
            blank = [""] * (len(columns) - len(cells))
            rows += [(*cells, *blank, error_text(entry)) for entry in variant.entries]
    setup = network.setup
    executed = "" if network.runtime == EAGER else f"runtime {network.runtime}, "
    where = f"{setup.host}: {setup.machine}; {setup.protocol}, {executed}{threads_text(setup.threads)}."
    meaning = " ".join((EVIDENCE, LABELLED if network.labelled else UNLABELLED, PAIRED))
    return Table((*columns, "Failed"), tuple(rows), (meaning, where)).compact()


def _figures(network: Network, variant: Variant) -> Iterator[str]:
    """Yield size, accuracy, its change with what is told of it, and the evidence; without labels the closeness."""
    yield size_text(size_mb(variant).mean)
    if network.labelled:
        change = change_from_float(variant)
        yield spread_text(quality_percent([variant]), 2)
        yield from (str(change), change.verdict) if change else ("", "")
    else:
        yield from closeness_cells(variant)
    yield from ("", "") if variant.is_float else _evidence(next(iter(variant.reports.values())))


def _evidence(report: Report) -> tuple[str, str]:
    evidence = report.result.evidence
    held = f"{len(evidence.held(report.precision))} of {len(evidence.layers)}"
    return held, f"{evidence.mac_share(report.precision):.0%}"


def _speedups(network: Network, variant: Variant) -> Iterator[str]:
    for size in network.sizes:
        yield ratio_text(over_float(variant, size), unstable=variant.unstable(size))
    for runtime in network.runtimes:
        for size in network.sizes:
            yield ratio_text(over_runtime(variant, runtime, size), unstable=variant.unstable(size))


def _asked(entries: Sequence[UnsupportedEntry]) -> str:
    """Return what was asked for in a line, as a sweep is typed: `quant=static,qat quant.flow=torchao`."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for entry in entries:
        for text in entry.asked:
            name, _, value = text.partition("=")
            values[name][value] = None
    return " ".join(f"{name}={','.join(of_name)}" for name, of_name in values.items())

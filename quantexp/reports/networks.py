"""What every method costs and buys on one network: a table a network, a row a method, its levers in columns.

Accuracy and speed stand there as what changed against the float model of the same seed, with what can be told of it;
beside them what inspection found, so that a method that lowered little is seen. What cannot be had is told apart: a
method that failed has its row with the error, combinations that do not exist have a table of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from quantexp.analysis.ratios import over_float
from quantexp.analysis.recommendation import accuracy_figures, accuracy_verdict
from quantexp.analysis.seeds import spread
from quantexp.analysis.variants import (
    LEFT_OPEN,
    Network,
    Setup,
    Variant,
    networks,
    settings_text,
    setup_names,
    variants,
)
from quantexp.reports.sweep_table import error_text, without_empty
from quantexp.reports.table import Table
from quantexp.results import Report
from quantexp.results.sweep import SweepResult, UnsupportedEntry
from quantexp.results.text import size_text, threads_text

MEANING = (
    "Layers lowered: those that hold the dtype. Products lowered: the share of the multiply-accumulates that "
    "ran in it. Against float: examples that only the quantized, or only the float model gets right, by the exact "
    "McNemar test; over several seeds the mean difference. Times as fast: paired, [ ]: 95 % interval, * unstable."
)


def network_tables(sweep: SweepResult) -> list[tuple[str, Table]]:
    """Return a title and a table for each network that two methods or more were tried on."""
    tried, found = variants(sweep), networks(sweep)
    names = setup_names([one.setup for one in found])
    tables = []
    for network in found:
        failed = [one for one in tried if not one.setup and (one.task, one.network) == (network.task, network.settings)]
        if len(network.variants) + len(failed) > 2:  # the float model is one of them
            tables.append((network_title(network, names), _table(network, failed)))
    return tables


def network_title(network: Network, names: Mapping[Setup, str]) -> str:
    """Return what tells a network from the others: its task, its settings, and the name of its setup."""
    parts = (network.task, settings_text(network.settings), names[network.setup])
    return ", ".join(part for part in parts if part)


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
    columns = ["Quantization", "dtype", *(name.removeprefix("quant.") for name in levers)]
    columns += ["Size (MB)", "Accuracy (%)", "Against float", "Change told", "Layers lowered", "Products lowered"]
    columns += [f"Times as fast B{size}" for size in network.sizes]
    rows = []
    for one in every:
        settings = {name: value for name, value in one.settings if value != LEFT_OPEN}
        cells = [one.quant, one.precision, *(settings.get(name, "") for name in levers)]
        blank = [""] * (len(columns) - len(cells))
        if one.setup:
            rows.append([*cells, *_figures(one), *(_times(one, size) for size in network.sizes), ""])
        else:
            rows += [[*cells, *blank, error_text(entry)] for entry in one.entries]
    setup = network.setup
    where = f"{setup.host}: {setup.machine}; {setup.protocol}, {threads_text(setup.threads)}."
    return without_empty([*columns, "Failed"], rows, (MEANING, where))


def _figures(one: Variant) -> Iterator[str]:
    """Yield size, accuracy, its change with what is told of it, and the evidence."""
    reports = list(one.reports.values())
    yield size_text(spread([report.result.size_mb for report in reports]).mean)
    accuracy = spread([100 * value for value in one.accuracies().values()])
    yield f"{accuracy.mean:.2f}" if accuracy.std is None else f"{accuracy.mean:.2f} ± {accuracy.std:.2f}"
    yield "" if one.is_float else accuracy_figures(one)
    yield "" if one.is_float else {"not told": "none"}.get(verdict := accuracy_verdict(one), verdict)
    yield from ("", "") if one.is_float else _evidence(reports[0])


def _evidence(report: Report) -> tuple[str, str]:
    evidence = report.result.evidence
    lowered = sum(layer.precision == report.precision for layer in evidence.layers)
    return f"{lowered} of {len(evidence.layers)}", f"{evidence.mac_share(report.precision):.0%}"


def _times(one: Variant, size: int) -> str:
    ratio = over_float(one, size)
    return f"{ratio} {ratio.verdict}{'*' * one.unstable(size)}" if ratio else ""


def _asked(entries: Sequence[UnsupportedEntry]) -> str:
    """Return what was asked for in a line, as a sweep is typed: `quant=static,qat quant.flow=torchao`."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for entry in entries:
        for text in entry.asked:
            name, _, value = text.partition("=")
            values[name][value] = None
    return " ".join(f"{name}={','.join(of_name)}" for name, of_name in values.items())

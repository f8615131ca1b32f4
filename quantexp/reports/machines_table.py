"""The tables of machines side by side: the experiments on each machine, the machines, and what differs between them.

The table of experiments has a row per experiment, batch size and machine, so that the figures of the machines stand
below each other, whatever their number. What is equal on all machines stands in the first row of an experiment only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from quantexp.analysis.machine_differences import (
    MEASURING,
    NO_SETTING,
    NOT_RECORDED,
    TRAINING,
    VERSIONS,
    Property,
    properties,
)
from quantexp.analysis.machines import Machine, SharedExperiment, SideBySide
from quantexp.analysis.names import setup_names
from quantexp.analysis.quality import quality_percent
from quantexp.analysis.ratios import over_float
from quantexp.analysis.settings import settings_text
from quantexp.analysis.values import float_latency_ms, latency_ms, size_mb
from quantexp.analysis.variants import Setup, Variant
from quantexp.reports.cells import closeness_cells, ratio_text, spread_text
from quantexp.reports.notes import notes
from quantexp.reports.table import Table
from quantexp.results.text import listed, megaflops_text, size_text

EXPERIMENT = ("Task", "Method", "Settings")
RESULTS = ("Accuracy (%)", "Agreement (%)", "SQNR (dB)", "Size (MB)", "MFLOPs", "Seeds")
MEANING = (
    "Speedup: latency of float over that of the other network, both timed in turns in one process on that machine. "
    "Nothing is averaged over machines. Accuracy and size stand once where they are equal on all machines."
)
MOST_NAMED = 4  # experiments in a note


def machines_table(compared: SideBySide) -> Table:
    """Return a row per experiment, batch size and machine, those that all machines measured first."""
    protocols = _protocols(compared.setups)
    seeds = len({report.seed for report in compared.sweep.reports}) > 1
    columns = (*EXPERIMENT, "Batch", "Machine", "Setup", "Float (ms)", "Quantized (ms)", "Speedup", *RESULTS, "Only on")
    rows: list[tuple[str, ...]] = []
    for shared in compared.experiments:
        only = "" if compared.on_all(shared) else listed(shared.machines)
        rows += _rows(shared, protocols, seeds=seeds, only=only)
    return Table(columns, tuple(rows), tuple(_notes(compared))).compact()


def hardware_table(compared: SideBySide) -> Table:
    """Return a row per machine: where its runs are recorded, and its hardware."""
    columns = ("Machine", "Store", "CPU", "Cores", "Instruction sets", "Memory (GB)", "System", "Python", "Runs")
    rows = []
    for machine in compared.machines:
        facts, last = machine.facts, machine.runs[-1]
        sets = ", ".join(facts.instruction_sets)
        cells = [machine.name, machine.store, facts.cpu or last.identity.cpu, str(facts.cores or ""), sets]
        cells += ["" if facts.memory_gb is None else f"{facts.memory_gb:g}", facts.system, facts.python]
        rows.append((*cells, str(len(machine.runs))))
    return Table(columns, tuple(rows), tuple(_namesakes(compared))).compact()


def differences_table(compared: SideBySide) -> Table:
    """Return a row per property that differs between machines; the others stand below the table."""
    found, machines = properties(compared.machines), [machine.name for machine in compared.machines]
    rows = tuple((fact.kind, fact.name, _value(fact, machines)) for fact in found if fact.differs)
    equal = [f"{fact.name} {fact.values[0]}" for fact in found if not fact.differs and fact.values[0] != NOT_RECORDED]
    same = (f"The same on all machines: {'; '.join(equal)}.",) if equal else ()
    several = any(" / " in value for fact in found if fact.differs for value in fact.values)
    meaning = ("/ between values: runs of this machine differ.",) if several else ()
    nothing = (("", "no difference was recorded", ""),)
    return Table(("Kind", "Property", "Values"), rows or nothing, (*meaning, *same))


def experiment_title(shared: SharedExperiment) -> str:
    """Return the name of an experiment: `mnist (sample) static int8 x86, hidden=[64]`."""
    first = shared.variants[0]
    return ", ".join(text for text in (f"{first.task} {first.method}", settings_text(first.network)) if text)


def _protocols(every: Sequence[Setup]) -> dict[Setup, str]:
    """Return how each setup measured, without its machine; empty if all measured in the same way."""
    alike = {setup: Setup("", "", setup.protocol, setup.threads, setup.settings) for setup in every}
    names = setup_names(list(dict.fromkeys(alike.values())))
    return {setup: names[protocol] for setup, protocol in alike.items()}


def _rows(
    shared: SharedExperiment, protocols: dict[Setup, str], *, seeds: bool, only: str
) -> Iterator[tuple[str, ...]]:
    first = shared.variants[0]
    head = [first.task, first.method, settings_text(first.network)]
    results = _results(shared.variants, seeds)
    shown: set[int] = set()  # variants whose results stand in a row
    for size in shared.sizes or (None,):
        batch = "" if size is None else str(size)
        for at, variant in enumerate(shared.variants):
            if variant.setup is None or (size is not None and size not in variant.sizes):
                continue
            cells = [*head, batch, variant.setup.host, protocols[variant.setup]]
            cells += _times(variant, size) if size is not None else ["", "", ""]
            cells += results[at] if at not in shown else [""] * len(RESULTS)
            yield (*cells, only)
            shown.add(at)
            head, batch, only = [""] * len(EXPERIMENT), "", ""


def _times(variant: Variant, size: int) -> list[str]:
    """Return the latencies of float and of the other network, and the speedup, or of a float network only the first."""
    baseline, unstable = spread_text(float_latency_ms(variant, size), 3), variant.unstable(size)
    if variant.is_float:
        return [f"{baseline}{'*' * unstable}", "", ""]
    return [
        baseline,
        spread_text(latency_ms(variant, size), 3),
        ratio_text(over_float(variant, size), unstable=unstable),
    ]


def _results(variants: Sequence[Variant], seeds: bool) -> list[list[str]]:
    """Return the cells of the results of each variant; what all have in common, only those of the first."""
    texts: tuple[Callable[[Variant], str], ...] = (
        lambda variant: spread_text(quality_percent([variant]), 2),
        lambda variant: "" if variant.labelled else closeness_cells(variant)[0],
        lambda variant: "" if variant.labelled else closeness_cells(variant)[1],
        lambda variant: size_text(size_mb(variant).mean),
        lambda variant: megaflops_text(variant.flops),
        lambda variant: ", ".join(str(seed) for seed in sorted(variant.reports)) if seeds else "",
    )
    columns = [[text(variant) for variant in variants] for text in texts]
    columns = [[column[0], *[""] * (len(column) - 1)] if len(set(column)) == 1 else column for column in columns]
    return [list(row) for row in zip(*columns, strict=True)]


# -- notes -----------------------------------------------------------------------------------------------


def _notes(compared: SideBySide) -> Iterator[str]:
    yield MEANING
    yield from notes(compared.sweep.reports)
    for machine in compared.machines:
        runs = f"{len(machine.runs)} run{'s' * (len(machine.runs) != 1)}"
        yield f"{machine.name}: {_summary(machine)}; {runs} in {machine.store}."
    yield from _namesakes(compared)
    yield from _differences(properties(compared.machines), [machine.name for machine in compared.machines])
    if any(len({tuple(sorted(found.reports)) for found in shared.variants}) > 1 for shared in compared.experiments):
        yield "Seeds: machines ran an experiment with different seeds, so that their accuracies are not comparable."
    yield from _only(compared)
    yield from _left_out(compared)


def _summary(machine: Machine) -> str:
    """Return hardware and versions in a line, with all instruction sets that are recorded."""
    facts = machine.facts
    if not (facts.cpu and facts.cores):
        return machine.summary
    sets = f" ({', '.join(facts.instruction_sets)})" if facts.instruction_sets else ""
    torch = facts.packages.get("torch", NOT_RECORDED)
    return f"{facts.cpu}, {facts.cores} cores{sets}, torch {torch}, Python {facts.python or NOT_RECORDED}"


def _namesakes(compared: SideBySide) -> Iterator[str]:
    for host, machines in compared.namesakes.items():
        stores = {machine.store for machine in machines}
        if len(stores) > 1:
            yield (
                f"{host} is the host name in {len(stores)} stores, whose names stand beside it. If it is one machine, "
                "their rows show how well a measurement repeats."
            )
        if len(machines) > len(stores):
            yield f"{host} has numbers, as its hardware, or its torch or Python, changed between runs in one store."


def _differences(found: Sequence[Property], machines: Sequence[str]) -> Iterator[str]:
    """Yield what differs in versions and settings, each with its values."""
    differing = [fact for fact in found if fact.differs]
    if not any(fact.kind in (VERSIONS, MEASURING, TRAINING) for fact in differing):
        yield "No difference in versions or settings of the machines was recorded."
    if measuring := [fact for fact in differing if fact.kind == MEASURING and NO_SETTING not in fact.values]:
        yield (
            f"THE MACHINES MEASURED DIFFERENTLY: {_values(measuring, machines)}. Their speedups are not those of one "
            "protocol; measure with equal settings to compare the machines."
        )
    for kind, text in ((VERSIONS, "Versions that differ"), (TRAINING, "Training differs")):
        if of_kind := [fact for fact in differing if fact.kind == kind]:
            yield f"{text}: {_values(of_kind, machines)}."


def _values(found: Sequence[Property], machines: Sequence[str]) -> str:
    return "; ".join(f"{fact.name} {_value(fact, machines)}" for fact in found)


def _value(found: Property, machines: Sequence[str]) -> str:
    """Return each value with its machines: `2.15.0 on lab and node7, 2.16.0 on node9`."""
    of_value: dict[str, list[str]] = defaultdict(list)
    for machine, value in zip(machines, found.values, strict=True):
        of_value[value].append(machine)
    return ", ".join(f"{value} on {listed(names)}" for value, names in of_value.items())


def _only(compared: SideBySide) -> Iterator[str]:
    """Yield the experiments that not all machines measured."""
    of_machines: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for shared in compared.experiments:
        if not compared.on_all(shared):
            of_machines[shared.machines].append(experiment_title(shared))
    if compared.experiments and not any(len(shared.machines) > 1 for shared in compared.experiments):
        yield "NO EXPERIMENT WAS MEASURED ON TWO MACHINES: run the same command on each of them to compare them."
    for machines, titles in of_machines.items():
        count = f"{len(titles)} experiment{'s' * (len(titles) != 1)}"
        yield f"Measured only on {listed(machines)}: {count} ({'; '.join(_few(titles))})."


def _few(titles: Sequence[str]) -> list[str]:
    if len(titles) <= MOST_NAMED:
        return list(titles)
    return [*titles[: MOST_NAMED - 1], f"{len(titles) - MOST_NAMED + 1} others, see Only on"]


def _left_out(compared: SideBySide) -> Iterator[str]:
    for store, count in compared.failed.items():
        if count:
            yield f"{count} failed run{'s' * (count != 1)} in {store} {'are' if count > 1 else 'is'} not compared."
    if compared.repeated:
        yield f"{compared.repeated} runs are in several stores, which were copied; each counts once."
    if compared.unreadable:
        count, first = len(compared.unreadable), compared.unreadable[0]
        yield f"{count} recorded results cannot be read and are not in the table, such as {first.name}: {first.reason}"

"""The same experiments on several machines, side by side. No figure is computed over machines.

An experiment is what a run measures, without the machine and the protocol: task, data, network, method and settings.
Runs of one machine that differ only in their seed are one variant, as in the report of a sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from quantexp.analysis.variants import Setup, Variant, across_setups, setups, variants
from quantexp.results.machines import MachineFacts, RecordedRun, RecordedRuns
from quantexp.results.sweep import Entry, SweepResult, UnreadableEntry

Place = tuple[str, str, str]  # store, host, and a line with hardware and versions


@dataclass(frozen=True, slots=True)
class Machine:
    """A host in one store, with one hardware and one version of torch and Python.

    `name` is the host; where several machines have this host, also a number or the store.
    """

    name: str
    store: str
    host: str
    summary: str
    runs: tuple[RecordedRun, ...]

    @property
    def facts(self) -> MachineFacts:
        """The machine as its last run recorded it."""
        return self.runs[-1].facts


@dataclass(frozen=True, slots=True)
class SharedExperiment:
    """One experiment: a variant for each machine that measured it, or more where a machine measured it in several ways.

    The host in the setups and reports of the variants is the name of the machine.
    """

    variants: tuple[Variant, ...]

    @property
    def machines(self) -> tuple[str, ...]:
        """The names of the machines that measured it."""
        return tuple(dict.fromkeys(variant.setup.host for variant in self.variants if variant.setup))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that were measured on any machine."""
        return tuple(sorted({size for variant in self.variants for size in variant.sizes}))


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Machines and their experiments: first those that all machines measured, last those of one machine only.

    `sweep` has all runs as if they were one sweep, with the names of the machines as hosts.
    """

    stores: tuple[str, ...]
    machines: tuple[Machine, ...]
    experiments: tuple[SharedExperiment, ...]
    sweep: SweepResult
    unreadable: tuple[UnreadableEntry, ...]
    failed: Mapping[str, int]
    repeated: int

    @property
    def setups(self) -> list[Setup]:
        """The setups in the order of the machines."""
        every = setups(variant for shared in self.experiments for variant in shared.variants)
        names = [machine.name for machine in self.machines]
        return sorted(every, key=lambda setup: names.index(setup.host))

    @property
    def namesakes(self) -> dict[str, tuple[Machine, ...]]:
        """The machines of each host that occurs in several stores, or with several hardware or versions."""
        found = {host: self.of_host(host) for host in dict.fromkeys(machine.host for machine in self.machines)}
        return {host: machines for host, machines in found.items() if len(machines) > 1}

    def of_host(self, host: str) -> tuple[Machine, ...]:
        """Return the machines with this host name."""
        return tuple(machine for machine in self.machines if machine.host == host)

    def on_all(self, shared: SharedExperiment) -> bool:
        """Return whether all machines measured an experiment."""
        return len(shared.machines) == len(self.machines)


def side_by_side(recorded: RecordedRuns) -> SideBySide:
    """Group recorded runs by machine, and match their experiments."""
    of_place: dict[Place, list[RecordedRun]] = {}
    for run in recorded.runs:
        of_place.setdefault(_place(run), []).append(run)
    names = machine_names(list(of_place))
    machines = tuple(Machine(names[place], *place, tuple(runs)) for place, runs in of_place.items())
    entries = (_entry(run, machine.name) for machine in machines for run in machine.runs)
    sweep = SweepResult("machines", "", tuple(entries))
    ordered = [machine.name for machine in machines]
    experiments = [SharedExperiment(_in_order(alike, ordered)) for alike in across_setups(variants(sweep))]
    experiments.sort(key=lambda shared: -len(shared.machines))  # stable: otherwise the order of the runs
    further = (recorded.unreadable, recorded.failed, recorded.repeated)
    return SideBySide(recorded.stores, machines, tuple(experiments), sweep, *further)


def machine_names(places: Sequence[Place]) -> dict[Place, str]:
    """Return a name for each machine: its host, with what distinguishes it from others of that host."""
    stores = store_names(list(dict.fromkeys(store for store, _, _ in places)))
    names = {}
    for place in places:
        store, host, _ = place
        namesakes = [other for other in places if other[1] == host]
        here = [other for other in namesakes if other[0] == store]
        number = f" #{here.index(place) + 1}" if len(here) > 1 else ""
        names[place] = f"{host}{number}{f' ({stores[store]})' if len(here) < len(namesakes) else ''}"
    return names


def store_names(stores: Sequence[str]) -> dict[str, str]:
    """Return a short name for each store: its folder or its file, or the whole address if short names are equal."""
    short = {store: _short_name(store) for store in stores}
    return short if len(set(short.values())) == len(stores) else {store: store for store in stores}


def _short_name(store: str) -> str:
    path = PurePosixPath(store)
    if "://" in store or not path.name:
        return store
    return path.parent.name or store if path.name == "mlflow.db" else path.name


def _place(run: RecordedRun) -> Place:
    return run.store, run.report.host, run.report.machine


def _entry(run: RecordedRun, machine: str) -> Entry:
    return Entry(run.run_id, run.name, run.settings, replace(run.report, host=machine))


def _in_order(alike: Iterable[Variant], machines: Sequence[str]) -> tuple[Variant, ...]:
    return tuple(sorted(alike, key=lambda variant: machines.index(variant.setup.host) if variant.setup else 0))

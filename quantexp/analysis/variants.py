"""What tells the rows of a sweep apart, and what is one row: runs that differ only in their seed.

    Variant   a task and its data, a method, a precision and every other setting that varies, in one setup
    Setup     where and how latencies were taken: machine, protocol, threads; they compare only within one
    Network   the variants of one task, one float network and one setup: what can be compared with each other

A setting varies if two combinations that agree in every chosen option (task, quant, benchmark ...) differ in
it; that static has an engine and the float model has none tells no rows apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from quantexp.results import Latency, Report, Speedup
from quantexp.results.sweep import Entry, SweepResult
from quantexp.results.text import threads_text

CHOICES = ("task", "model", "quant", "precision", "train", "benchmark", "data", "validation", "evaluation")
TOLD = ("model", "train", "validation", "evaluation")  # where there are several, whatever else differs
OF_NO_ACCOUNT = ("data_dir", "cache_dir", "tracking", "sweep", "seed", "batch_size", "experiment", "study")
SAME_AS = {"task.hidden": "model.hidden"}  # the network takes its widths from the task unless it has its own
NAMED_BY_VALUE = ("quant.flow", "quant.engine")  # no other setting has values of these names
LEFT_OPEN = "None"  # a setting that has no value, as it is recorded
Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """Where and how latencies were taken: a machine, a protocol, threads, and settings of the protocol that vary."""

    host: str
    machine: str
    protocol: str
    threads: int
    settings: Settings = ()

    @property
    def place(self) -> tuple[str, str]:
        """The machine, with what is installed there."""
        return self.host, self.machine


@dataclass(frozen=True, slots=True)
class Variant:
    """Runs that differ only in seed, or in the batch sizes that they measured; the last of equal ones counts.

    `setup` is None where nothing was measured: each entry is a failure then.
    """

    task: str
    quant: str
    precision: str
    settings: Settings
    setup: Setup | None
    entries: tuple[Entry, ...]

    @property
    def method(self) -> str:
        """Name the method, with the settings of its own that vary: `static int8 fx onednn reduce_range=True`."""
        own = [(name, value) for name, value in self.settings if name.startswith("quant.") and value != LEFT_OPEN]
        texts = (value if name in NAMED_BY_VALUE else f"{_short(name)}={value}" for name, value in own)
        return " ".join([self.quant, self.precision, *texts])

    @property
    def network(self) -> Settings:
        """What shapes the float network and its training."""
        return tuple(pair for pair in self.settings if not pair[0].startswith("quant."))

    @property
    def reports(self) -> dict[int, Report]:
        """A report of each seed, for figures that do not depend on the batch size."""
        return {report.seed: report for report in self._reports()}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that were measured."""
        return tuple(sorted({one.batch_size for report in self._reports() for one in report.result.latency}))

    @property
    def is_float(self) -> bool:
        """Whether this is the float model that others are compared with."""
        return all(report.comparison is None for report in self._reports())

    @property
    def step(self) -> float:
        """The least difference that two accuracies can have: one test example."""
        return 1 / min(report.result.accuracy.total for report in self._reports())

    def accuracies(self) -> dict[int, float]:
        """Return the accuracy by seed."""
        return {seed: report.result.accuracy.value for seed, report in self.reports.items()}

    def latencies(self, size: int) -> dict[int, Latency]:
        """Return the latency at a batch size by seed."""
        return {
            report.seed: one for report in self._reports() for one in report.result.latency if one.batch_size == size
        }

    def speedups(self, size: int) -> dict[int, Speedup]:
        """Return the paired speedup over the float model at a batch size by seed; none of the float model."""
        return {
            report.seed: one
            for report in self._reports()
            if report.comparison
            for one in report.comparison.speedups
            if one.batch_size == size
        }

    def log_speedups(self, size: int) -> dict[int, float]:
        """Return the logarithm of the speedup by seed, 0 of the float model."""
        if self.is_float:
            return dict.fromkeys(self.latencies(size), 0.0)
        return {seed: math.log(one.ratio) for seed, one in self.speedups(size).items()}

    def unstable(self, size: int) -> bool:
        """Tell whether a latency at this batch size is not to be trusted."""
        return any(one.batch_size == size and one.unstable for report in self._reports() for one in report.conditions)

    def _reports(self) -> Iterator[Report]:
        return (entry.report for entry in self.entries if entry.report)


@dataclass(frozen=True, slots=True)
class Network:
    """The variants of one task, one float network and one setup, the float model among them."""

    task: str
    settings: Settings
    setup: Setup
    variants: tuple[Variant, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that were measured."""
        return tuple(sorted({size for one in self.variants for size in one.sizes}))

    @property
    def flops(self) -> int:
        """Floating-point operations of the float network on one example."""
        return next(iter(self.variants[0].reports.values())).flops


def variants(sweep: SweepResult) -> list[Variant]:
    """Return what was tried, in the order of the sweep; failures, which have no setup, behind the rest."""
    levers, digests = _levers(sweep.entries), _digests(sweep.entries)
    grouped: dict[Variant, list[Entry]] = defaultdict(list)
    for entry in sorted(sweep.entries, key=lambda entry: entry.report is None):
        grouped[_variant(entry, levers, digests)].append(entry)
    return [dataclasses.replace(one, entries=tuple(entries)) for one, entries in grouped.items()]


def networks(sweep: SweepResult) -> list[Network]:
    """Return what can be compared with each other; a float model that has no run of its own is that of the others."""
    grouped: dict[tuple[str, Settings, Setup], list[Variant]] = defaultdict(list)
    for one in variants(sweep):
        if one.setup:
            grouped[one.task, one.network, one.setup].append(one)
    return [Network(*key, _with_float(ones)) for key, ones in grouped.items()]


def setups(ones: Iterable[Variant]) -> list[Setup]:
    """Return the different setups in order."""
    return list(dict.fromkeys(one.setup for one in ones if one.setup))


def setup_names(every: Sequence[Setup]) -> dict[Setup, str]:
    """Return what tells each setup from the others: `lab`, `2 threads, node7`; nothing where there is only one."""
    places = place_names(every)
    names = {}
    for one in every:
        parts = [
            one.protocol if len({other.protocol for other in every}) > 1 else "",
            threads_text(one.threads) if len({other.threads for other in every}) > 1 else "",
            places[one.place] if len(places) > 1 else "",
            settings_text(one.settings),
        ]
        names[one] = ", ".join(part for part in parts if part)
    return names


def place_names(every: Sequence[Setup]) -> dict[tuple[str, str], str]:
    """Return a name for each machine: its host, numbered where that was not always the same machine or versions."""
    places = list(dict.fromkeys(one.place for one in every))
    names = {}
    for place in places:
        namesakes = [other for other in places if other[0] == place[0]]
        names[place] = place[0] if len(namesakes) == 1 else f"{place[0]} #{namesakes.index(place) + 1}"
    return names


def settings_text(settings: Settings) -> str:
    """Return settings in a line, without those that are left open: `hidden=[256, 256], crop=20`."""
    return ", ".join(f"{_short(name)}={value}" for name, value in settings if value != LEFT_OPEN)


def _variant(entry: Entry, levers: Sequence[str], digests: dict[str, int]) -> Variant:
    """Return the variant that an entry belongs to, without its entries."""
    settings, report = entry.settings, entry.report
    shown = tuple((name, settings[name]) for name in levers if name in settings)
    of_benchmark = tuple(pair for pair in shown if pair[0].startswith("benchmark."))
    others = tuple(pair for pair in shown if pair not in of_benchmark)
    if report is None:
        source = settings.get("data", "full")
        task = settings.get("task", "?")
        named = task if source == "full" else f"{task} ({source})"
        return Variant(named, settings.get("quant", "?"), settings.get("precision", "?"), others, None, ())
    task = report.task_name
    if digests[task] > 1:
        others = (*others, ("data", report.data.fingerprint[:8]))
    protocol = settings.get("benchmark", report.benchmark)
    setup = Setup(report.host, report.machine, protocol, report.threads, of_benchmark)
    return Variant(task, report.quant, report.precision, others, setup, ())


def _levers(entries: Iterable[Entry]) -> list[str]:
    """Return the settings that vary among entries which agree in every choice, and the choices that are always told.

    The number of threads is said by the setup itself.
    """
    seen: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    entries = list(entries)
    for entry in entries:
        choices = tuple(entry.settings.get(name, "") for name in CHOICES)
        for name, value in entry.settings.items():
            if name not in CHOICES and name != "benchmark.threads" and name.split(".")[0] not in OF_NO_ACCOUNT:
                seen[choices][name].add(value)
    names = dict.fromkeys(name for of_choice in seen.values() for name in of_choice)
    varying = [name for name in names if any(len(of_choice[name]) > 1 for of_choice in seen.values())]
    told = [name for name in varying if not _said_twice(name, varying, entries)]
    given = {name: {entry.settings[name] for entry in entries if name in entry.settings} for name in TOLD}
    several = [name for name, values in given.items() if len(values) > 1]
    return [*several, *told]


def _said_twice(name: str, varying: Sequence[str], entries: Iterable[Entry]) -> bool:
    """Tell whether another setting that varies says the same in every entry that has it."""
    other = SAME_AS.get(name, "")
    if other not in varying:
        return False
    return all(entry.settings.get(name) == entry.settings[other] for entry in entries if other in entry.settings)


def _digests(entries: Iterable[Entry]) -> dict[str, int]:
    """Count the different data that each task was run on."""
    seen: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if report := entry.report:
            seen[report.task_name].add(report.data.fingerprint)
    return {task: len(digests) for task, digests in seen.items()}


def _with_float(ones: Sequence[Variant]) -> tuple[Variant, ...]:
    """Put the float model first; where it has no run of its own, as the other runs measured it."""
    own = [one for one in ones if one.is_float]
    if own:
        return (*own, *(one for one in ones if not one.is_float))
    first = ones[0]
    known = (entry for one in reversed(ones) for entry in one.entries)  # the last counts: those of the first
    entries = tuple(dataclasses.replace(one, report=_float_report(one.report)) for one in known if one.report)
    precision = next(iter(first.reports.values())).baseline.precision
    alone = dataclasses.replace(first, quant="none", precision=precision, settings=first.network, entries=entries)
    return (alone, *ones)


def _float_report(report: Report) -> Report:
    alone = {"quant": "none", "precision": report.baseline.precision, "quantized": None, "comparison": None}
    return dataclasses.replace(report, **alone)  # type: ignore[arg-type]  # a dict's values have one type


def _short(name: str) -> str:
    return name.rpartition(".")[2]

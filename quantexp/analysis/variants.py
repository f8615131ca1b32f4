"""Runs of a sweep, grouped: runs that differ only in their seed are one variant, a row of a table.

Variant   a task and its data, a method, a precision and the other settings that vary, in one setup
Setup     machine, protocol and threads of the latencies; latencies are comparable within one setup only
Network   the variants of one task, float network, runtime and setup, which can be compared with each other
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from quantexp.analysis.settings import LEFT_OPEN, Settings, short, varying
from quantexp.results import Comparison, Energy, EnergyRatio, Latency, OtherQuantized, Report, Speedup
from quantexp.results.sweep import Entry, SweepResult
from quantexp.results.text import task_title

NAMED_BY_VALUE = ("quant.flow", "quant.engine")  # no other setting has values of these names
RUNTIME = "eager"  # of records without this setting


@dataclass(frozen=True, slots=True)
class Setup:
    """Where and how latencies were measured: machine, protocol, threads, and the protocol's settings that vary."""

    host: str
    machine: str
    protocol: str
    threads: int
    settings: Settings = ()

    @property
    def place(self) -> tuple[str, str]:
        """The host, and its hardware and versions."""
        return self.host, self.machine


@dataclass(frozen=True)
class Variant:
    """Runs that differ only in their seed or batch sizes; of equal runs the last one counts.

    `setup` is None if nothing was measured: all entries have failed then.
    """

    task: str
    quant: str
    precision: str
    settings: Settings
    setup: Setup | None
    entries: tuple[Entry, ...]

    @property
    def method(self) -> str:
        """The method with its settings that vary: `static int8 fx onednn reduce_range=True`."""
        own = [(name, value) for name, value in self.settings if name.startswith("quant.") and value != LEFT_OPEN]
        texts = (value if name in NAMED_BY_VALUE else f"{short(name)}={value}" for name, value in own)
        return " ".join([self.quant, self.precision, *texts])

    @property
    def network(self) -> Settings:
        """The settings of the float network, its training and its runtime."""
        return tuple(pair for pair in self.settings if not pair[0].startswith("quant."))

    @cached_property
    def reports(self) -> dict[int, Report]:
        """A report per seed, for figures that do not depend on the batch size."""
        return {report.seed: report for report in self._reports}

    @cached_property
    def comparisons(self) -> dict[int, Comparison]:
        """The comparison with the float network per seed; empty for the float network."""
        return {seed: report.comparison for seed, report in self.reports.items() if report.comparison}

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that were measured."""
        return tuple(sorted({latency.batch_size for report in self._reports for latency in report.result.latency}))

    @cached_property
    def is_float(self) -> bool:
        """Whether this is the float network."""
        return all(report.comparison is None for report in self._reports)

    @cached_property
    def labelled(self) -> bool:
        """Whether the examples have labels."""
        return any(report.result.quality for report in self._reports)

    @property
    def flops(self) -> int | None:
        """Floating-point operations of the float network per example, None if they cannot all be counted."""
        return next(iter(self.reports.values())).flops

    @property
    def step(self) -> float:
        """The smallest possible difference of two qualities: one evaluated example."""
        totals = [report.result.quality.total for report in self._reports if report.result.quality]
        return 1 / min(totals) if totals else 0.0

    def qualities(self) -> dict[int, float]:
        """Return the quality per seed; empty without labels."""
        return {seed: report.result.quality.value for seed, report in self.reports.items() if report.result.quality}

    def latencies(self, size: int) -> dict[int, Latency]:
        """Return the latency at a batch size per seed."""
        return {
            report.seed: latency
            for report in self._reports
            for latency in report.result.latency
            if latency.batch_size == size
        }

    def energies(self, size: int) -> dict[int, Energy]:
        """Return the energy at a batch size per seed, of the runs that measured it."""
        return {seed: latency.energy for seed, latency in self.latencies(size).items() if latency.energy}

    def energy_ratios(self, size: int) -> dict[int, EnergyRatio]:
        """Return the energy of the float network over that of this one per seed; empty for the float network."""
        return {
            report.seed: ratio
            for report in self._reports
            if report.comparison
            for ratio in report.comparison.energy_ratios
            if ratio.batch_size == size
        }

    def speedups(self, size: int) -> dict[int, Speedup]:
        """Return the paired speedup over the float network at a batch size per seed; empty for the float network."""
        return {
            report.seed: speedup
            for report in self._reports
            if report.comparison
            for speedup in report.comparison.speedups
            if speedup.batch_size == size
        }

    def speedups_over(self, runtime: str, size: int) -> dict[int, Speedup]:
        """Return the paired speedup over the float network in a further runtime at a batch size per seed."""
        return {
            report.seed: speedup
            for report in self._reports
            for other in report.others
            if other.runtime == runtime
            for speedup in other.quantized_speedups
            if speedup.batch_size == size
        }

    def eager_speedups(self, size: int) -> dict[int, Speedup]:
        """Return the speedup of eager execution over the runtime, both of the float network, per seed."""
        return self.float_speedups_in(RUNTIME, size)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The further runtimes that the quantized network was measured in."""
        return tuple(dict.fromkeys(other.runtime for report in self._reports for other in report.others_quantized))

    def quantized_in(self, runtime: str) -> dict[int, OtherQuantized]:
        """Return the quantized network in a further runtime per seed, for figures that no batch size changes."""
        return {seed: other for seed, report in self.reports.items() if (other := report.quantized_in(runtime))}

    def speedups_in(self, runtime: str, size: int) -> dict[int, Speedup]:
        """Return the speedup of the quantized network over float, both in a further runtime, per seed."""
        return {seed: speedup for seed, other in self._in(runtime) for speedup in _at(other.speedups, size)}

    def eager_speedups_in(self, runtime: str, size: int) -> dict[int, Speedup]:
        """Return the speedup of the quantized network in a further runtime over float in eager execution, per seed."""
        return {seed: speedup for seed, other in self._in(runtime) for speedup in _at(other.eager_speedups, size)}

    def float_speedups_in(self, runtime: str, size: int) -> dict[int, Speedup]:
        """Return the speedup of a further runtime over that of the run, both of the float network, per seed."""
        return {
            report.seed: speedup
            for report in self._reports
            for other in report.others
            if other.runtime == runtime
            for speedup in _at(other.speedups, size)
        }

    def log_speedups(self, size: int) -> dict[int, float]:
        """Return the logarithm of the speedup per seed, 0 for the float network."""
        if self.is_float:
            return dict.fromkeys(self.latencies(size), 0.0)
        return {seed: math.log(speedup.ratio) for seed, speedup in self.speedups(size).items()}

    def has_finding(self, check: str) -> bool:
        """Return whether a self-check with this name found something in one of the runs."""
        return any(finding.check == check for report in self._reports for finding in report.findings)

    def unstable(self, size: int) -> bool:
        """Return whether a latency at this batch size is unstable."""
        conditions = (found for report in self._reports for found in report.conditions)
        return any(found.batch_size == size and found.unstable for found in conditions)

    @cached_property
    def _reports(self) -> tuple[Report, ...]:
        return tuple(entry.report for entry in self.entries if entry.report)

    def _in(self, runtime: str) -> Iterator[tuple[int, OtherQuantized]]:
        return ((report.seed, other) for report in self._reports if (other := report.quantized_in(runtime)))


@dataclass(frozen=True)
class Network:
    """The variants of one task, float network, runtime and setup; the float network comes first."""

    task: str
    settings: Settings
    setup: Setup
    variants: tuple[Variant, ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that were measured."""
        return tuple(sorted({size for variant in self.variants for size in variant.sizes}))

    @cached_property
    def quantized(self) -> tuple[Variant, ...]:
        """All variants but the float network."""
        return tuple(variant for variant in self.variants if not variant.is_float)

    @cached_property
    def labelled(self) -> bool:
        """Whether the examples have labels."""
        return any(variant.labelled for variant in self.variants)

    @property
    def runtime(self) -> str:
        """The runtime that executed the networks."""
        return next(iter(self.variants[0].reports.values())).runtime

    @cached_property
    def runtimes(self) -> tuple[str, ...]:
        """The further runtimes that the float network was timed in."""
        reports = (report for variant in self.quantized for report in variant.reports.values())
        return tuple(dict.fromkeys(other.runtime for report in reports for other in report.others))

    @property
    def flops(self) -> int | None:
        """Floating-point operations of the float network per example, None if they cannot all be counted."""
        return self.variants[0].flops


def _at(speedups: Iterable[Speedup], size: int) -> Iterator[Speedup]:
    return (speedup for speedup in speedups if speedup.batch_size == size)


_last_grouped: tuple[SweepResult, list[Variant]] | None = None  # each table and picture of a report needs them


def variants(sweep: SweepResult) -> list[Variant]:
    """Return the variants in the order of the sweep, those that only failed at the end."""
    global _last_grouped
    if _last_grouped is None or _last_grouped[0] is not sweep:
        _last_grouped = sweep, _grouped(sweep)
    return list(_last_grouped[1])


def _grouped(sweep: SweepResult) -> list[Variant]:
    names, digests = varying([_settings(entry) for entry in sweep.entries]), _digests(sweep.entries)
    grouped: dict[Variant, list[Entry]] = defaultdict(list)
    for entry in sorted(sweep.entries, key=lambda entry: entry.report is None):
        grouped[_variant(entry, names, digests)].append(entry)
    return [dataclasses.replace(variant, entries=tuple(entries)) for variant, entries in grouped.items()]


def networks(sweep: SweepResult) -> list[Network]:
    """Return the networks; without a run of quant=none, the float network is taken from the other runs."""
    grouped: dict[tuple[str, Settings, Setup], list[Variant]] = defaultdict(list)
    for variant in variants(sweep):
        if variant.setup:
            grouped[variant.task, variant.network, variant.setup].append(variant)
    return [Network(*key, _with_float(found)) for key, found in grouped.items()]


def setups(every: Iterable[Variant]) -> list[Setup]:
    """Return the distinct setups in order."""
    return list(dict.fromkeys(variant.setup for variant in every if variant.setup))


def across_setups(every: Iterable[Variant]) -> list[list[Variant]]:
    """Group variants that differ only in their setup."""
    alike: dict[tuple[object, ...], list[Variant]] = defaultdict(list)
    for variant in every:
        if variant.setup:
            alike[variant.task, variant.quant, variant.precision, variant.settings].append(variant)
    return list(alike.values())


def _settings(entry: Entry) -> Mapping[str, str]:
    return {"runtime": entry.report.runtime if entry.report else RUNTIME, **entry.settings}


def _variant(entry: Entry, names: Sequence[str], digests: Mapping[str, int]) -> Variant:
    """Return the variant of an entry, still without entries."""
    settings, report = _settings(entry), entry.report
    shown = tuple((name, settings[name]) for name in names if name in settings)
    of_benchmark = tuple(pair for pair in shown if pair[0].startswith("benchmark."))
    others = tuple(pair for pair in shown if pair not in of_benchmark)
    if report is None:
        drawn = settings.get("train.examples", LEFT_OPEN)
        count = int(drawn) if drawn.isdigit() else None
        named = task_title(settings.get("task", "?"), settings.get("data", "full"), count)
        return Variant(named, settings.get("quant", "?"), settings.get("precision", "?"), others, None, ())
    task = report.task_name
    if digests[task] > 1:
        others = (*others, ("data", report.data.fingerprint[:8]))
    protocol = settings.get("benchmark", report.benchmark)
    setup = Setup(report.host, report.machine, protocol, report.threads, of_benchmark)
    return Variant(task, report.quant, report.precision, others, setup, ())


def _digests(entries: Iterable[Entry]) -> dict[str, int]:
    """Return how many data sets each task was run on; random inputs, which differ by seed, count as one."""
    seen: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if report := entry.report:
            seen[report.task_name].add("" if report.data.source == "synthetic" else report.data.fingerprint)
    return {task: len(digests) for task, digests in seen.items()}


def _with_float(found: Sequence[Variant]) -> tuple[Variant, ...]:
    """Put the float network first; without a run of its own, as the other runs measured it."""
    own = [variant for variant in found if variant.is_float]
    if own:
        return (*own, *(variant for variant in found if not variant.is_float))
    first = found[0]
    # Of equal reports the last one counts: that is the one of the first variant.
    known = (entry for variant in reversed(found) for entry in variant.entries)
    entries = tuple(dataclasses.replace(entry, report=_float_report(entry.report)) for entry in known if entry.report)
    precision = next(iter(first.reports.values())).baseline.precision
    alone = dataclasses.replace(first, quant="none", precision=precision, settings=first.network, entries=entries)
    return (alone, *found)


def _float_report(report: Report) -> Report:
    alone = {"quant": "none", "precision": report.baseline.precision, "quantized": None, "comparison": None}
    return dataclasses.replace(report, **alone, others_quantized=())  # type: ignore[arg-type]  # a dict's values have one type

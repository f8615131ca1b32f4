"""What differs between machines: hardware, versions, and the settings of training and measuring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantexp.analysis.machines import Machine
from quantexp.config import NOTHING, affects
from quantexp.results.machines import MachineFacts, RecordedRun

HARDWARE, VERSIONS, MEASURING, TRAINING = "hardware", "versions", "measuring", "training"
NOT_RECORDED = "not recorded"
NO_SETTING = "no such setting"  # of a protocol


@dataclass(frozen=True, slots=True)
class Property:
    """A property of machines, and its value on each of them; a machine whose runs differ has several values."""

    kind: str
    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether two machines have different values."""
        return len(set(self.values)) > 1


def properties(machines: Sequence[Machine]) -> list[Property]:
    """Return every recorded property of the machines, in the order of the kinds."""
    of_machines = [_of_machine(machine) for machine in machines]
    named = list(dict.fromkeys(key for found in of_machines for key in found))
    kinds = (HARDWARE, VERSIONS, MEASURING, TRAINING)
    named.sort(key=lambda key: kinds.index(key[0]))
    missing = {MEASURING: NO_SETTING}
    return [
        Property(*key, tuple(found.get(key, missing.get(key[0], NOT_RECORDED)) for found in of_machines))
        for key in named
    ]


def _of_machine(machine: Machine) -> dict[tuple[str, str], str]:
    """Return the values of a machine by kind and name; different values of its runs beside each other."""
    values: dict[tuple[str, str], dict[str, None]] = {}
    for run in machine.runs:
        for kind, name, value in _of_run(run):
            values.setdefault((kind, name), {})[value] = None
    return {key: " / ".join(sorted(found)) for key, found in values.items()}


def _of_run(run: RecordedRun) -> Iterator[tuple[str, str, str]]:
    facts, report = run.facts, run.report
    for name, value in _hardware(facts, run.identity.cpu):
        yield HARDWARE, name, value
    yield VERSIONS, "Python", facts.python or NOT_RECORDED
    for name, value in {**run.identity.versions, **facts.packages}.items():
        yield VERSIONS, name, value
    for name, value in facts.torch_build.items():
        yield VERSIONS, f"torch build: {name}", value
    yield VERSIONS, "system", facts.system or NOT_RECORDED
    yield VERSIONS, "C++ compiler", facts.compiler or "none"
    yield MEASURING, "benchmark", run.benchmark
    yield MEASURING, "benchmark.threads", str(report.threads)
    for name, value in run.settings.items():
        if name.startswith("benchmark.") and name != "benchmark.threads" and affects(name) is not NOTHING:
            yield MEASURING, name, value
    yield MEASURING, "OpenMP variables", _variables(facts.openmp)
    if training := report.float_training:
        yield TRAINING, "training threads", str(training.threads)
        yield TRAINING, "training device", training.device


def _hardware(facts: MachineFacts, cpu: str) -> Iterator[tuple[str, str]]:
    yield "CPU", facts.cpu or cpu
    yield "cores", _text(facts.cores)
    yield "CPU quota (cores)", "none" if facts.cpu_quota is None else f"{facts.cpu_quota:g}"
    yield "instruction sets", ", ".join(facts.instruction_sets) or "none known"
    yield "memory (GB)", _text(facts.memory_gb)
    yield "virtual machine", facts.virtual or "no"
    yield "governor", _text(facts.governor)
    yield "turbo", _text(facts.turbo)


def _text(value: object) -> str:
    return NOT_RECORDED if value is None else str(value)


def _variables(openmp: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(openmp.items())) or "none"

"""The report of a run, and how to write and read it as JSON."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantexp.results.checks import Finding
from quantexp.results.comparison import Comparison, OtherFloat, OtherQuantized
from quantexp.results.measured import Conditions, Measured, Training
from quantexp.results.text import task_title

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class Data:
    """The data of a run: where they came from, a digest of their content, and the number of examples in each split.

    `validation` counts the examples held out of train; `evaluation` names the split that quality was measured on.
    `drawn` tells whether `train` counts a part of the training examples, drawn as `train.examples` requests.
    """

    source: str
    origin: str
    fingerprint: str
    train: int
    calibration: int
    test: int
    validation: int = 0
    evaluation: str = "test"
    drawn: bool = False

    @property
    def evaluated(self) -> int:
        """The number of examples that quality was measured on."""
        return self.validation if self.evaluation == "validation" else self.test


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one run. `quantized` and `comparison` are None where nothing is quantized.

    `runtime` executed both networks; `others` has the float network in further runtimes, `others_quantized` the
    quantized one in those of them that execute it. `objective` is "classification", or "unlabelled" where there were no
    labels. `findings` are those of the self-checks.
    `flow` is the API that quantized, None where there is no choice.

    `flops` counts the floating-point operations of the float network for one example, two for a multiply-accumulate;
    None if it has operators that cannot be counted. `host` names the machine, `machine` describes in a
    line what latencies depend on: CPU, cores, instruction sets, torch, Python.
    """

    task: str
    model: str
    quant: str
    precision: str
    data: Data
    seed: int
    host: str
    machine: str
    benchmark: str
    threads: int
    flops: int | None
    baseline: Measured
    quantized: Measured | None
    comparison: Comparison | None
    conditions: tuple[Conditions, ...]
    calibration: str | None  # the split that the method was calibrated on, None without calibration
    calibration_seconds: float | None
    float_training: Training | None
    quantized_training: Training | None
    runtime: str = "eager"
    others: tuple[OtherFloat, ...] = ()
    objective: str = "classification"
    findings: tuple[Finding, ...] = ()
    flow: str | None = None
    others_quantized: tuple[OtherQuantized, ...] = ()

    @property
    def task_name(self) -> str:
        """The task, with what was used of its data if that is not all: `mnist (sample, 500 training examples)`."""
        return task_title(self.task, self.data.source, self.data.train if self.data.drawn else None)

    @property
    def network_name(self) -> str:
        """The task and the network: `mnist (sample), mlp`."""
        return f"{self.task_name}, {self.model}"

    @property
    def result(self) -> Measured:
        """The network that the run is about: the quantized one if there is one."""
        return self.quantized or self.baseline

    def quantized_in(self, runtime: str) -> OtherQuantized | None:
        """Return the quantized network in a further runtime, None if it was not measured there."""
        return next((other for other in self.others_quantized if other.runtime == runtime), None)

    @property
    def unstable(self) -> tuple[str, ...]:
        """The reasons not to trust the latencies, each with its batch size."""
        return tuple(f"batch {timed.batch_size}: {reason}" for timed in self.conditions for reason in timed.unstable)

    @property
    def no_energy(self) -> str:
        """Why energy was not measured at some batch size; empty if it was measured at all of them."""
        if all(latency.energy for latency in self.result.latency):
            return ""
        reasons = dict.fromkeys(timed.no_energy for timed in self.conditions if timed.no_energy)
        return "; ".join(reasons) or "recorded before energy was measured"

    def to_json(self) -> str:
        """Return the report as JSON, which `parse_report` reads back."""
        return _adapter().dump_json(self, indent=1).decode()


@functools.cache
def _adapter() -> TypeAdapter[Report]:
    """Return what reads and writes reports; to make it takes longer than to read one."""
    from pydantic import TypeAdapter

    return TypeAdapter(Report)


def parse_report(content: bytes) -> Report:
    """Read a report that `to_json` wrote, in this version or an earlier one.

    Raises:
        ValueError: If the content is not a report; this includes pydantic.ValidationError.
    """
    from pydantic_core import from_json  # takes a quarter of the time of json

    values = from_json(content)
    if isinstance(values, dict) and "compiled" in values:
        values = _modern(values)
    return _adapter().validate_python(values)


def _modern(values: dict[str, Any]) -> dict[str, Any]:
    """Convert a report from before runtimes and objectives existed to the current fields."""
    values = {**values}
    for model in ("baseline", "quantized"):
        if values.get(model):
            accuracy = values[model]["accuracy"]
            rest = {name: value for name, value in values[model].items() if name != "accuracy"}
            values[model] = {**rest, "quality": {"name": "accuracy", **accuracy}}
    compiled, comparison = values.pop("compiled"), values.get("comparison")
    over_compiled: list[Any] = []
    if comparison:
        comparison = {**comparison}
        over_compiled = comparison.pop("speedups_over_compiled", [])
        moved = ("flips_gained", "flips_lost", "p_value", "detectable_drop", "gained_examples", "lost_examples")
        change = {name: comparison.pop(name) for name in moved if name in comparison}
        quality = {"name": "accuracy", "drop": comparison.pop("accuracy_drop"), **change}
        values["comparison"] = {**comparison, "quality": quality}
    if compiled:
        seconds = compiled.pop("compile_seconds")
        other = {"runtime": "compiled", "prepare_seconds": seconds, **compiled, "quantized_speedups": over_compiled}
        values["others"] = [other]
    return values

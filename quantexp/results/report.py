"""All that one run found out, as JSON and back."""

from __future__ import annotations

from dataclasses import dataclass

from quantexp.results.comparison import Comparison, Compiled
from quantexp.results.measured import Conditions, Measured, Training


@dataclass(frozen=True, slots=True)
class Data:
    """The examples of a run: where they came from, a digest of what was read, and how many in each split.

    `validation` counts those that were held out of train; `evaluation` names the split that accuracy was measured on.
    """

    source: str
    origin: str
    fingerprint: str
    train: int
    calibration: int
    test: int
    validation: int = 0
    evaluation: str = "test"

    @property
    def evaluated(self) -> int:
        """How many examples accuracy was measured on."""
        return self.validation if self.evaluation == "validation" else self.test


@dataclass(frozen=True, slots=True)
class Report:
    """All that one run found out. `quantized` and `comparison` are None where nothing is lowered.

    `flops` counts the floating-point operations of the float network on one example with torch's counter,
    which sees matrix products and convolutions: two a multiply-accumulate. `host` names the machine, `machine`
    says in a line what latencies depend on there: CPU, cores, instruction sets, torch, Python.
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
    flops: int
    baseline: Measured
    quantized: Measured | None
    compiled: Compiled | None
    comparison: Comparison | None
    conditions: tuple[Conditions, ...]
    calibration: str | None  # the split that activation ranges were seen on, None where there was none
    calibration_seconds: float | None
    float_training: Training | None
    quantized_training: Training | None

    @property
    def task_name(self) -> str:
        """The task, and the data where they are not the full set: `mnist (sample)`."""
        return self.task if self.data.source == "full" else f"{self.task} ({self.data.source})"

    @property
    def network_name(self) -> str:
        """The task and the network: `mnist (sample), mlp`."""
        return f"{self.task_name}, {self.model}"

    @property
    def result(self) -> Measured:
        """The model that the run is about: the quantized one if there is one."""
        return self.quantized or self.baseline

    @property
    def unstable(self) -> tuple[str, ...]:
        """The reasons not to trust the latencies, each with the batch size it was seen at."""
        return tuple(f"batch {one.batch_size}: {reason}" for one in self.conditions for reason in one.unstable)

    def to_json(self) -> str:
        """Return the report as JSON, which `parse_report` reads back."""
        from pydantic import TypeAdapter

        return TypeAdapter(Report).dump_json(self, indent=1).decode()


def parse_report(content: bytes) -> Report:
    """Read a report that was written with `to_json`. Raises pydantic.ValidationError, a ValueError."""
    from pydantic import TypeAdapter

    return TypeAdapter(Report).validate_json(content)

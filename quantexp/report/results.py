"""The results of a run: frozen dataclasses, a unit in every name, accuracy in [0, 1].

`metrics` flattens a report into the names that scripts and saved views read; there is no other place
where a metric gets its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Training:
    """One training: how long it took, where, and its loss. Times compare only on one `machine` and `threads`."""

    seconds: float
    epochs: int
    device: str
    threads: int
    machine: str
    steps: tuple[int, ...]  # after which each loss was taken
    losses: tuple[float, ...]  # mean over the steps since the one before

    def comparable(self, other: Training) -> bool:
        """Tell whether the seconds of both can be compared."""
        return (self.device, self.threads, self.machine) == (other.device, other.threads, other.machine)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of the test examples that are classified right, with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    correct: int
    total: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass at one batch size.

    A sample is the mean time of a call within one timed block of `calls_per_sample` calls; the samples
    stand in the order in which they were taken, `placements` equal shares of them.
    """

    batch_size: int
    samples_ms: tuple[float, ...]
    calls_per_sample: int
    placements: int
    median_ms: float
    mean_ms: float
    std_ms: float
    p10_ms: float
    p90_ms: float

    @property
    def throughput_per_s(self) -> float:
        """Examples per second at the median latency."""
        return self.batch_size / self.median_ms * 1e3


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on one model. `train_seconds` is None where it was not trained by quantexp."""

    precision: str
    accuracy: Accuracy
    size_bytes: int
    parameters: int
    latency: tuple[Latency, ...]
    train_seconds: float | None

    @property
    def size_mb(self) -> float:
        """Size of the saved state dict in MB (1e6 bytes)."""
        return self.size_bytes / 1e6


@dataclass(frozen=True, slots=True)
class Speedup:
    """Float latency over quantized latency at one batch size; the 95 % interval where the protocol has one."""

    batch_size: int
    ratio: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The quantized model against the float model, on the same examples and inputs.

    `flips_gained` counts test examples that only the quantized model gets right, `flips_lost` those
    that only the float model does. `accuracy_drop` is float minus quantized.
    """

    accuracy_drop: float
    flips_gained: int
    flips_lost: int
    compression: float
    speedups: tuple[Speedup, ...]
    training_ratio: float | None  # quantized training time over float's, where the two compare


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer became: its place in the network, its class, and the precision of its weights."""

    name: str
    kind: str
    precision: str


@dataclass(frozen=True, slots=True)
class Operator:
    """A multiplying operator that ran in a forward pass, the precision it ran in, and how often."""

    name: str
    precision: str
    calls: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the model is made of and what really ran."""

    layers: tuple[Layer, ...]
    operators: tuple[Operator, ...]
    left_in_float: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """The examples of a run: where they came from, a digest of what was read, and how many in each split."""

    source: str
    origin: str
    fingerprint: str
    train: int
    calibration: int
    test: int


@dataclass(frozen=True, slots=True)
class Report:
    """All that one run found out. `quantized` and `comparison` are None where nothing is lowered."""

    task: str
    model: str
    quant: str
    precision: str
    data: Data
    seed: int
    benchmark: str
    threads: int
    baseline: Measured
    quantized: Measured | None
    comparison: Comparison | None
    evidence: Evidence
    calibration: str | None  # the split that activation ranges were seen on, None where there was none
    calibration_seconds: float | None
    float_training: Training | None
    quantized_training: Training | None

    @property
    def result(self) -> Measured:
        """The model that the run is about: the quantized one if there is one."""
        return self.quantized or self.baseline

    def to_json(self) -> str:
        """Return the report as JSON, which `read_report` reads back."""
        from pydantic import TypeAdapter

        return TypeAdapter(Report).dump_json(self, indent=1).decode()


def read_report(path: Path) -> Report:
    """Read a report that was written with `to_json`. Raises OSError, pydantic.ValidationError."""
    from pydantic import TypeAdapter

    return TypeAdapter(Report).validate_json(path.read_bytes())


def metrics(report: Report) -> dict[str, float]:
    """Return the report's figures under their public names, headline figures first."""
    named = _measured(report.result, headline=True)
    if comparison := report.comparison:
        named |= {
            "accuracy_drop": comparison.accuracy_drop,
            "flips_gained": comparison.flips_gained,
            "flips_lost": comparison.flips_lost,
            "compression": comparison.compression,
        }
        for speedup in comparison.speedups:
            stem = f"speedup_b{speedup.batch_size}"
            named |= {stem: speedup.ratio, f"{stem}_low": speedup.low, f"{stem}_high": speedup.high}
        named["training_ratio"] = comparison.training_ratio
    named["calibration_seconds"] = report.calibration_seconds
    named |= _measured(report.result, headline=False)
    if report.quantized is not None:
        float_side = _measured(report.baseline, headline=True) | _measured(report.baseline, headline=False)
        named |= {f"float/{name}": value for name, value in float_side.items()}
    return {name: float(value) for name, value in named.items() if value is not None}


def _measured(model: Measured, *, headline: bool) -> dict[str, Any]:
    if headline:
        return {
            "accuracy": model.accuracy.value,
            "size_mb": model.size_mb,
            **{f"latency_b{one.batch_size}_ms": one.median_ms for one in model.latency},
            "parameters": model.parameters,
            "train_seconds": model.train_seconds,
        }
    named: dict[str, Any] = {"accuracy_low": model.accuracy.low, "accuracy_high": model.accuracy.high}
    for one in model.latency:
        stem = f"latency_b{one.batch_size}_ms"
        named |= {
            f"{stem}_mean": one.mean_ms,
            f"{stem}_std": one.std_ms,
            f"{stem}_p10": one.p10_ms,
            f"{stem}_p90": one.p90_ms,
            f"throughput_b{one.batch_size}_per_s": one.throughput_per_s,
        }
    return named

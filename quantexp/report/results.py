"""The results of a run: frozen dataclasses, a unit in every name, shares and accuracy in [0, 1].

`report/metrics.py` gives the figures their public names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


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
    """Share of the evaluated examples that are classified right, with its 95 % Wilson interval.

    `confusion[label][predicted]` counts the examples; its diagonal sums to `correct`.
    """

    value: float
    low: float
    high: float
    correct: int
    total: int
    confusion: tuple[tuple[int, ...], ...]

    @property
    def per_class(self) -> tuple[float | None, ...]:
        """Share of the examples of each class that are classified right, None for a class without examples."""
        return tuple(row[label] / sum(row) if sum(row) else None for label, row in enumerate(self.confusion))


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass at one batch size.

    A sample is the mean time of a call within one timed block of `calls_per_sample` calls; the samples
    stand in the order in which they were taken, `placements` equal shares of them. `first_call_ms` is
    the very first call, which pays for whatever is set up lazily. `p99_ms` is None where there are too
    few samples to know it.
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
    p99_ms: float | None
    first_call_ms: float

    @property
    def throughput_per_s(self) -> float:
        """Examples per second at the median latency."""
        return self.batch_size / self.median_ms * 1e3


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which the models were timed at one batch size, and what speaks against the figures.

    `ended_by` says what ended the measurement: the interval was narrow enough, the budget was spent,
    or the protocol has a fixed number of calls. `cores_used` is the CPU time of this process over wall
    time, `others_load` the cores that other processes kept busy, `steal` the share of CPU time that the
    hypervisor gave to others. `unstable` holds the reasons not to trust the figures, none if there are none.
    """

    batch_size: int
    threads: int
    seconds: float
    ended_by: Literal["narrow", "budget", "protocol"]
    cores_used: float
    others_load: float
    steal: float
    unstable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a model: as the lab saves it, as quantexp stores it, and its weights in memory by dtype."""

    state_bytes: int  # of the file that torch.save(model.state_dict()) writes
    stored_bytes: int | None  # of the folder that quantexp.load reads; None where no disk took it
    weight_bytes: dict[str, int]  # parameters, scales and zero points, by the dtype they are held in
    parameters: int


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer became: its place in the network, its class, and how its weights are held.

    `qscheme` and `engine` are None for a layer that is not quantized.
    """

    name: str
    kind: str
    precision: str
    bits: int
    qscheme: str | None = None
    engine: str | None = None


@dataclass(frozen=True, slots=True)
class LeftInFloat:
    """A layer that the method left in float, and why as far as it is known."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Operator:
    """A multiplying operator that ran: its precision, how often, and its multiply-accumulates for one example."""

    name: str
    precision: str
    calls: int
    macs: int


@dataclass(frozen=True, slots=True)
class TimeShare:
    """An operator of a profiled forward pass and its share of the time, that of operators within it apart."""

    operator: str
    share: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a forward pass went at one batch size, the greatest share first."""

    batch_size: int
    shares: tuple[TimeShare, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a model is made of and what really ran."""

    layers: tuple[Layer, ...]
    operators: tuple[Operator, ...]
    left_in_float: tuple[LeftInFloat, ...]

    def mac_share(self, precision: str) -> float:
        """Return the share of the multiply-accumulates that ran in `precision`; 0 where nothing multiplies."""
        total = sum(operator.macs for operator in self.operators)
        return sum(one.macs for one in self.operators if one.precision == precision) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on one model.

    `train_seconds` is None where it was not trained by quantexp, `load_ms` where no disk took it; `memory_bytes`,
    the peak resident memory of a fresh process that loads the model and predicts, above one that only imports
    torch, is None unless asked for. `loss` is the cross entropy on the evaluated split, None where it is no finite
    number, or was recorded before there was such a figure.
    """

    precision: str
    accuracy: Accuracy
    size: Size
    evidence: Evidence
    profiles: tuple[Profile, ...]
    latency: tuple[Latency, ...]
    load_ms: float | None
    train_seconds: float | None
    memory_bytes: int | None
    loss: float | None = None

    @property
    def size_mb(self) -> float:
        """Size of the saved state dict in MB (1e6 bytes)."""
        return self.size.state_bytes / 1e6


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster one model is than another at one batch size: latency over latency.

    `low` and `high` bound the 95 % interval, None where the protocol has none; `per_placement` holds the
    ratios it was drawn from. `margin` is the smallest difference worth naming, as a share.
    """

    batch_size: int
    ratio: float
    low: float | None
    high: float | None
    margin: float
    per_placement: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" only if the whole interval lies beyond the margin; else what can be ruled out."""
        if self.low is None or self.high is None:
            return "no interval"
        if self.low > 1 + self.margin:
            return "faster"
        if self.high < 1 / (1 + self.margin):
            return "slower"
        reach = max(self.high, 1 / self.low) - 1
        return f"no difference of more than {math.ceil(1000 * max(reach, self.margin) - 1e-9) / 10:g} %"


@dataclass(frozen=True, slots=True)
class NotFaster:
    """A batch size at which int8 was not faster than float, and the reasons as far as they can be told."""

    batch_size: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """What one layer of the quantized model loses against the float model's, on the same evaluated examples.

    Weights are compared as float sees them: `weight_mean_error` and `weight_max_error` are absolute differences,
    `weight_low` and `weight_high` the range of the float weight. `input_low` and `input_high` are the range of the
    inputs that the layer has in the float model, `grid_low` and `grid_high` that of the values which the quantized
    layer's inputs are rounded to, None where no range is fixed; both of all calls together. `clipped` is the share of
    the float model's inputs that lie beyond, by more than half a step. The SQNRs are the energy of what the float layer
    takes, or gives, over that of its difference from the quantized one's: `input_sqnr_db` tells what came in damaged,
    `output_sqnr_db` what goes on. Any figure is None where it is not finite or cannot be had; errors of a weight that
    stays in float are.
    """

    name: str
    precision: str
    weight_mean_error: float | None
    weight_max_error: float | None
    weight_sqnr_db: float | None
    weight_low: float | None
    weight_high: float | None
    input_low: float | None
    input_high: float | None
    grid_low: float | None
    grid_high: float | None
    clipped: float | None
    input_sqnr_db: float | None
    output_sqnr_db: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The quantized model against the float model, on the same examples and inputs.

    `flips_gained` counts examples that only the quantized model gets right, `flips_lost` those
    that only the float model does. `accuracy_drop` is float minus quantized. `agreement` is the share
    of examples on which both predict the same class. `p_value` is that of the exact McNemar test, and
    `detectable_drop` the least true drop that it would have told from none in 80 of 100 such sets of examples.
    `output_sqnr_db` is the energy of the float logits over that of their difference from the quantized ones, None
    where both are equal, or not finite. `gained_examples` and `lost_examples` are the indices of the flips in the
    evaluated split: with them two quantized models can be compared, each by its flips from the same float model.
    `layers` has what each layer loses, in the order of the network; none where no layer holds its weights in less than
    float.
    """

    accuracy_drop: float
    agreement: float
    flips_gained: int
    flips_lost: int
    p_value: float
    detectable_drop: float
    compression: float
    speedups: tuple[Speedup, ...]
    speedups_over_compiled: tuple[Speedup, ...]  # none unless the compiled float model was measured
    not_faster: tuple[NotFaster, ...]
    training_ratio: float | None  # quantized training time over float's, where the two compare
    output_sqnr_db: float | None = None
    gained_examples: tuple[int, ...] = ()
    lost_examples: tuple[int, ...] = ()
    layers: tuple[LayerLoss, ...] = ()

    @property
    def accuracy_verdict(self) -> str:
        """What the test says at the 5 % level: a loss, a gain, or none that it can detect."""
        if self.p_value >= 0.05:
            return "no detectable loss"
        return "a loss" if self.flips_lost > self.flips_gained else "a gain"


def won_and_lost(one: Comparison, other: Comparison) -> tuple[int, int]:
    """Count the examples that only the other model gets right, and those that only the one does.

    Both are compared with the same float model, so they differ where the flips of one are not those of the other.
    """
    gained = (set(one.gained_examples), set(other.gained_examples))
    lost = (set(one.lost_examples), set(other.lost_examples))
    return len(gained[1] - gained[0]) + len(lost[0] - lost[1]), len(gained[0] - gained[1]) + len(lost[1] - lost[0])


@dataclass(frozen=True, slots=True)
class Compiled:
    """The float model under `torch.compile`, a harder one to beat than eager.

    `max_difference` is the greatest difference of its logits from those of the eager model; `speedups`
    say how much faster than that it is.
    """

    compile_seconds: float
    max_difference: float
    latency: tuple[Latency, ...]
    speedups: tuple[Speedup, ...]


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

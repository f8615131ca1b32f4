"""What was measured on one network: how it was trained, its accuracy, its latencies, its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quantexp.results.evidence import Evidence, Profile


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
class Quality:
    """How good a network is on the evaluated examples: a share in [0, 1] with its 95 % interval.

    `name` is what the objective calls it, such as "accuracy"; `correct` of `total` examples make it up.
    `confusion[label][predicted]` counts the examples; its diagonal sums to `correct`.
    """

    name: str
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

    @property
    def weights_mb(self) -> float:
        """What the weights take in memory in MB (1e6 bytes)."""
        return sum(self.weight_bytes.values()) / 1e6


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on one model.

    `train_seconds` is None where it was not trained by quantexp, `load_ms` where no disk took it; `memory_bytes`,
    the peak resident memory of a fresh process that loads the model and predicts, above one that only imports
    torch, is None unless asked for. `quality` is None where examples have no labels. `loss` is that of the objective
    on the evaluated split, None where it is not finite or there are no labels. `prepare_seconds` is what the runtime
    took to make the network executable at all measured batch sizes, None where it does nothing; `max_difference` the
    greatest difference of its outputs from those of the network before that.
    """

    precision: str
    quality: Quality | None
    size: Size
    evidence: Evidence
    profiles: tuple[Profile, ...]
    latency: tuple[Latency, ...]
    load_ms: float | None
    train_seconds: float | None
    memory_bytes: int | None
    loss: float | None = None
    prepare_seconds: float | None = None
    max_difference: float | None = None

    @property
    def size_mb(self) -> float:
        """Size of the saved state dict in MB (1e6 bytes)."""
        return self.size.state_bytes / 1e6

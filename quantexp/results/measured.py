"""The measurements of one network: its training, quality, latencies and size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from quantexp.results.evidence import Evidence, Profile


@dataclass(frozen=True, slots=True)
class Training:
    """One training: its time, device and losses. Times are comparable only on one `machine` with equal `threads`."""

    seconds: float
    epochs: int
    device: str
    threads: int
    machine: str
    steps: tuple[int, ...]  # the step at which each loss was recorded
    losses: tuple[float, ...]  # mean over the steps since the previous record

    def comparable(self, other: Training) -> bool:
        """Return whether the times of both are comparable."""
        return (self.device, self.threads, self.machine) == (other.device, other.threads, other.machine)


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of a network on the evaluated examples: a share in [0, 1] with its 95 % confidence interval.

    `name` is the name of the metric, such as "accuracy"; the value is `correct` over `total` examples.
    `confusion[label][predicted]` counts the examples; its diagonal sums to `correct`. With many classes it is empty:
    `confused` has the most frequent errors instead, each as (label, predicted, examples), the most frequent first, and
    `by_class` has (examples, correct) for each class.
    """

    name: str
    value: float
    low: float
    high: float
    correct: int
    total: int
    confusion: tuple[tuple[int, ...], ...]
    confused: tuple[tuple[int, int, int], ...] = ()
    by_class: tuple[tuple[int, int], ...] = ()

    @property
    def class_counts(self) -> tuple[tuple[int, int], ...]:
        """The examples of each class, and how many of them are classified correctly."""
        return self.by_class or tuple((sum(row), row[label]) for label, row in enumerate(self.confusion))

    @property
    def per_class(self) -> tuple[float | None, ...]:
        """The share of each class that is classified correctly, None for a class without examples."""
        return tuple(correct / examples if examples else None for examples, correct in self.class_counts)


@dataclass(frozen=True, slots=True)
class Resources:
    """What the operating system counted in the timed calls of one network at one batch size, as means over `calls`.

    `minor_faults_per_call` are the pages of memory that the system had to map, `system_ms_per_call` is the CPU time in
    the system, a part of `cpu_ms_per_call`; both are those of all threads.
    """

    calls: int
    minor_faults_per_call: float
    system_ms_per_call: float
    cpu_ms_per_call: float

    @property
    def system_share(self) -> float:
        """The share of the CPU time that was spent in the system."""
        return min(1.0, self.system_ms_per_call / self.cpu_ms_per_call) if self.cpu_ms_per_call else 0.0


@dataclass(frozen=True, slots=True)
class Energy:
    """The energy that all CPU packages used for one example, at one batch size: joules with their 95 % interval.

    It includes what other processes and the idle parts of the packages used meanwhile. `joules_by_placement` has the
    joules for one example in each placement in which energy was measured.
    """

    joules: float
    low_joules: float
    high_joules: float
    joules_by_placement: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass at one batch size.

    A sample is the mean time of a call in one timed block of `calls_per_sample` calls. The samples are in the order
    of measurement, and each of the `placements` has an equal share of them. `first_call_ms` is the time of the very
    first call, which includes lazy initialization. `p99_ms` is None where there are too few samples for it. `resources`
    is None where the system counts none, `energy` where it was not measured, and both in reports from before they were
    recorded.
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
    resources: Resources | None = None
    energy: Energy | None = None

    @property
    def throughput_per_s(self) -> float:
        """Examples per second at the median latency."""
        return self.batch_size / self.median_ms * 1e3


Ended: TypeAlias = Literal["narrow", "decided", "undecided", "budget", "protocol"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of the timing at one batch size, and the reasons not to trust its figures.

    `ended_by` says what ended the measurement: all intervals were "narrow" and decided; all comparisons were "decided"
    when the time was spent, or later; one was "undecided" then, and would still be so after the maximum time; the
    maximum time ("budget") was spent; or the "protocol" has a fixed length.
    `cores_used` is the CPU time of this process divided by wall time, `others_load` the number of cores that other
    processes kept busy, `steal` the share of CPU time that the hypervisor gave to other machines. `unstable` holds the
    reasons not to trust the figures; empty if there are none. `openmp` has the environment variables, of those that are
    set, which define how OpenMP's threads wait. `repeated` is the share of the rounds that were measured again because
    another process interrupted them. `allocator` says whether the C library keeps freed memory between the calls.
    `no_energy` says why energy was not measured; it is empty if it was, and in reports from before it was recorded.
    """

    batch_size: int
    threads: int
    seconds: float
    ended_by: Ended
    cores_used: float
    others_load: float
    steal: float
    unstable: tuple[str, ...]
    openmp: dict[str, str] = field(default_factory=dict)
    repeated: float = 0.0
    allocator: str = ""
    no_energy: str = ""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a network: as a saved state dict, as quantexp stores it, and its weights in memory by dtype."""

    state_bytes: int  # of the file that torch.save(model.state_dict()) writes
    stored_bytes: int | None  # of the folder that quantexp.load reads; None if it could not be written
    weight_bytes: dict[str, int]  # parameters, scales and zero points, by the dtype they are held in
    parameters: int

    @property
    def weights_mb(self) -> float:
        """Memory that the weights take in MB (1e6 bytes)."""
        return sum(self.weight_bytes.values()) / 1e6


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one network.

    `quality` is None where the examples have no labels. `loss` is the loss of the objective on the evaluated split,
    None where it is not finite or there are no labels. `train_seconds` is None if quantexp did not train the network.
    `load_ms` is the time to load the stored network, or the file that its runtime executes; None if it could not be
    stored. `memory_bytes` is the peak resident memory of a new process that loads the network and predicts a batch of
    the largest size, minus that of one that only imports torch; where the runtime executes a file, of one that loads
    that file without quantexp, minus that of one that only imports the runtime's packages. It is None unless
    benchmark.memory is set.
    `prepare_seconds` is the time the runtime took to prepare the network for all measured batch sizes, None where
    nothing is prepared; `max_difference` is the largest difference of its outputs from those before preparation.
    `agreement_with_eager` is the share of the evaluated examples with the same prediction in its runtime as in eager
    execution, None in eager execution.
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
    agreement_with_eager: float | None = None

    @property
    def size_mb(self) -> float:
        """Size of the saved state dict in MB (1e6 bytes)."""
        return self.size.state_bytes / 1e6

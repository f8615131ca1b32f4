"""Timing of forward passes: the networks that are compared run alternately in one process, on the same inputs.

`paired.py` has the protocol `paired`. `lab` follows the hand-out of the lab: one warm-up, a few timed calls on one
batch, mean and deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from quantexp.benchmark import energy, noise
from quantexp.benchmark.calls import Placed, Timed, timed
from quantexp.benchmark.paired import time_paired
from quantexp.benchmark.usage import Usage
from quantexp.config import Benchmark, Lab, Paired
from quantexp.results import Conditions, Latency
from quantexp.runtimes.prepared import Prepared
from quantexp.statistics.timing import latency
from quantexp.system import host, openmp
from quantexp.system.allocator import memory_kept
from quantexp.system.energy import Meter, find
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.data import Split
from quantexp.tasks.inputs import Batch

BATCHES = 8  # different batches of test inputs that the calls rotate over, fewer if they are large
MAX_INPUT_BYTES = 64_000_000


@dataclass(frozen=True)
class Timing:
    """The latency of each contestant at one batch size, and the conditions of the measurement."""

    latencies: tuple[Latency, ...]
    conditions: Conditions


def time_models(
    contestants: Sequence[Prepared],
    examples: Split,
    batch_size: int,
    protocol: Benchmark,
    meter: Meter | None = None,
) -> Timing:
    """Time the contestants alternately; the first one is the reference of the comparison.

    The caller sets the threads first. Other processes of quantexp on this host pause during the measurement. All
    contestants run with memory that the allocator keeps, where it can. `meter` has the energy counters; None finds
    those of this machine.

    Raises:
        BenchmarkError: If the protocol is unknown.
    """
    meter = meter or find()
    with torch.inference_mode(), host.alone(), memory_kept() as allocator:
        clock = noise.Clock()
        match protocol:
            case Paired():
                inputs = _batches(examples, batch_size, BATCHES)
                found = time_paired(contestants, inputs, batch_size, protocol, meter)
            case Lab():
                found = _lab(contestants, _batches(examples, batch_size, 1), batch_size, protocol)
            case _:
                raise BenchmarkError(f"benchmark must be a Paired or a Lab, got {type(protocol).__name__}")
        load = clock.read()
    unstable = noise.reasons(load, protocol.threads, found.latencies)
    return Timing(
        found.latencies,
        Conditions(
            batch_size=batch_size,
            threads=protocol.threads,
            seconds=load.seconds,
            ended_by=found.ended_by,
            cores_used=load.cores_used,
            others_load=load.others_load,
            steal=load.steal,
            unstable=unstable,
            openmp=openmp.waiting(),
            repeated=found.repeated,
            allocator=allocator,
            no_energy=energy.missing(meter, protocol) or found.no_energy,
        ),
    )


def _batches(examples: Split, size: int, count: int) -> list[Batch]:
    """Return up to `count` batches of examples; after the last example they continue with the first."""
    first = examples.first(size)
    fitting = max(1, min(count, MAX_INPUT_BYTES // sum(tensor.nbytes for tensor in first)))
    return [first, *(examples.first(size, skipping=index * size) for index in range(1, fitting))]


def _lab(contestants: Sequence[Prepared], inputs: list[Batch], batch_size: int, protocol: Lab) -> Timed:
    samples: list[list[float]] = [[] for _ in contestants]
    usages = [Usage() for _ in contestants]
    networks = [Placed(one.call, [one.given(batch) for batch in inputs]) for one in contestants]
    first_ms = [timed(network, 1).seconds * 1e3 for network in networks]  # the one warm-up
    for _ in range(protocol.repeats):
        for index, network in enumerate(networks):
            taken = timed(network, 1)
            samples[index].append(taken.seconds * 1e3)
            usages[index] += taken.usage
    latencies = (
        latency(batch_size, samples[index], 1, 1, first, usages[index].per_call())
        for index, first in enumerate(first_ms)
    )
    return Timed(tuple(latencies), "protocol")

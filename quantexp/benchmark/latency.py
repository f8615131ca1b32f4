"""Timing of forward passes: the networks that are compared run alternately in one process, on the same inputs.

`paired` re-copies the networks many times. Two copies of one network differ by a few percent, depending on the
addresses of their weights. So each placement in memory is one sample of the speedup, and the interval is computed over
placements. A placement has several rounds, and each round has one block of calls for each network. A block is long
enough for the resolution of the clock, but short, because disturbances of the machine last only milliseconds. A block
of many calls is timed in slices, and the networks alternate after each slice. A call then finds the caches as the other
network left them, as in a service that also does other work.

`lab` follows the hand-out of the lab: one warm-up, a few timed calls on one batch, mean and deviation.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from quantexp.benchmark import noise
from quantexp.config import Benchmark, Lab, Paired
from quantexp.results import Conditions, Latency
from quantexp.runtimes import Prepared
from quantexp.statistics.timing import half_width, latency
from quantexp.system import host, openmp
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.data import Split
from quantexp.tasks.inputs import Batch

BLOCK_SECONDS = 2e-4  # about the shortest block: a disturbance of the machine then also affects the next network
SLICE_SECONDS = 5e-3  # about the longest time before it is the turn of the next network
PLACEMENTS = 30  # the budget is divided among them, if the networks are fast enough
MOST_ROUNDS = 100  # in a placement, an even number; above it a further placement is more useful
WARM_UP_BLOCKS = 5  # at most
IMPROVEMENT = 0.98  # a block that takes a larger share of the best time so far is no improvement
BATCHES = 8  # different batches of test inputs that the calls rotate over, fewer if they are large
MAX_INPUT_BYTES = 64_000_000
MAX_SHIFT = 1 << 20  # size of the tensor that moves the next copy to another address

Ended = Literal["narrow", "budget", "protocol"]
Network = Callable[..., Any]  # called as `network(*batch)`


@dataclass(frozen=True)
class Timing:
    """The latency of each contestant at one batch size, and the conditions of the measurement."""

    latencies: tuple[Latency, ...]
    conditions: Conditions


def time_models(contestants: Sequence[Prepared], examples: Split, batch_size: int, protocol: Benchmark) -> Timing:
    """Time the contestants alternately; the first one is the reference of the comparison.

    The caller sets the threads first. Other processes of quantexp on this host pause during the measurement.

    Raises:
        BenchmarkError: If the protocol is unknown.
    """
    with torch.inference_mode(), host.alone():
        clock = noise.Clock()
        match protocol:
            case Paired():
                latencies, ended = _paired(contestants, _batches(examples, batch_size, BATCHES), batch_size, protocol)
            case Lab():
                latencies, ended = _lab(contestants, _batches(examples, batch_size, 1), batch_size, protocol)
            case _:
                raise BenchmarkError(f"benchmark must be a Paired or a Lab, got {type(protocol).__name__}")
        load = clock.read()
    unstable = noise.reasons(load, protocol.threads, latencies)
    return Timing(
        tuple(latencies),
        Conditions(
            batch_size=batch_size,
            threads=protocol.threads,
            seconds=load.seconds,
            ended_by=ended,
            cores_used=load.cores_used,
            others_load=load.others_load,
            steal=load.steal,
            unstable=unstable,
            openmp=openmp.waiting(),
        ),
    )


def _batches(examples: Split, size: int, count: int) -> list[Batch]:
    """Return up to `count` batches of examples; after the last example they continue with the first."""
    first = examples.first(size)
    fitting = max(1, min(count, MAX_INPUT_BYTES // sum(tensor.nbytes for tensor in first)))
    return [first, *(examples.first(size, skipping=index * size) for index in range(1, fitting))]


def _paired(
    contestants: Sequence[Prepared], inputs: list[Batch], batch_size: int, protocol: Paired
) -> tuple[list[Latency], Ended]:
    started = time.perf_counter()
    chance = random.Random()  # not seeded: an order shared by all runs would give all of them the same bias
    first_ms = [_time(contestant.network, inputs, 1) * 1e3 for contestant in contestants]
    call_seconds = [_call_seconds(contestant.network, inputs) for contestant in contestants]
    block = _Block.of(protocol.calls, min(call_seconds))
    placements: list[list[list[float]]] = []  # samples in ms by placement, contestant and round
    rounds = None
    while True:
        copies = _placed(contestants, chance)
        # In random order: the last one keeps more of the caches for the whole placement.
        warm = sum(_warm_up(copy, block.slice_calls, inputs) for copy in chance.sample(copies, len(copies)))
        rounds = rounds or _rounds(block, warm * block.calls, protocol)
        placements.append(_samples(copies, inputs, block, rounds, chance))
        ended = _ended(placements, time.perf_counter() - started, protocol)
        if ended:
            break
    latencies = [
        latency(
            batch_size, [ms for samples in placements for ms in samples[index]], block.calls, len(placements), first
        )
        for index, first in enumerate(first_ms)
    ]
    return latencies, ended


@dataclass(frozen=True)
class _Block:
    """The calls of a network that are timed together as a slice, and the slices of a block."""

    slice_calls: int
    slices: int

    @classmethod
    def of(cls, least_calls: int, call_seconds: float) -> _Block:
        """Return the block for a call of `call_seconds`, at least 100 times the resolution of the clock."""
        least_seconds = max(BLOCK_SECONDS, 100 * time.get_clock_info("perf_counter").resolution)
        calls = max(least_calls, round(least_seconds / call_seconds))
        slice_calls = min(calls, max(1, round(SLICE_SECONDS / call_seconds)))
        return cls(slice_calls, math.ceil(calls / slice_calls))

    @property
    def calls(self) -> int:
        return self.slice_calls * self.slices


def _samples(
    copies: Sequence[Network], inputs: list[Batch], block: _Block, rounds: int, chance: random.Random
) -> list[list[float]]:
    """Return the mean milliseconds of a call in each block, by network and round.

    The order is shuffled for every other turn and reversed in the turn after it. The order changes what a network finds
    in the caches, so each network must run early as often as late.
    """
    samples = [[0.0] * rounds for _ in copies]
    order: list[int] = []
    for turn in range(rounds * block.slices):
        order = order[::-1] if turn % 2 else chance.sample(range(len(copies)), len(copies))
        for index in order:
            seconds = _time(copies[index], inputs, block.slice_calls, start=turn)
            samples[index][turn // block.slices] += seconds * 1e3 / block.slices
    return samples


def _placed(contestants: Sequence[Prepared], chance: random.Random) -> list[Network]:
    """Copy the contestants to other addresses in memory, in random order because the order affects the addresses."""
    copies: dict[int, Network] = {}
    shifts = []  # freed after all copies are made
    for index in chance.sample(range(len(contestants)), len(contestants)):
        shifts.append(torch.empty(chance.randrange(1, MAX_SHIFT)))
        copies[index] = contestants[index].copied()
    return [copies[index] for index in range(len(contestants))]


def _call_seconds(model: Network, inputs: list[Batch]) -> float:
    _time(model, inputs, len(inputs))  # warm-up
    return _time(model, inputs, len(inputs))


def _warm_up(model: Network, calls: int, inputs: list[Batch]) -> float:
    """Call the network until a block of `calls` no longer improves; return the best seconds per call."""
    best = _time(model, inputs, calls)
    for _ in range(WARM_UP_BLOCKS - 1):
        seconds = _time(model, inputs, calls)
        if seconds > IMPROVEMENT * best:
            break
        best = seconds
    return min(best, seconds)


def _rounds(block: _Block, round_seconds: float, protocol: Paired) -> int:
    """Return the rounds of a placement. With an even number of slices, each network runs first equally often."""
    step = 1 + block.slices % 2
    share = max(1, int(protocol.seconds / PLACEMENTS / round_seconds))
    return max(step, min(MOST_ROUNDS, share) // step * step)


def _ended(placements: Sequence[Sequence[Sequence[float]]], spent: float, protocol: Paired) -> Ended | None:
    """Return what ends the measurement after these placements, None if it continues."""
    if len(placements) >= protocol.placements:
        first, *others = zip(*placements, strict=True)
        if not others:
            return "protocol"  # nothing is compared
        if all(half_width(first, other) <= protocol.narrow for other in others):
            return "narrow"
    return "budget" if spent >= protocol.seconds and len(placements) >= 2 else None


def _lab(
    contestants: Sequence[Prepared], inputs: list[Batch], batch_size: int, protocol: Lab
) -> tuple[list[Latency], Ended]:
    samples: list[list[float]] = [[] for _ in contestants]
    first_ms = [_time(contestant.network, inputs, 1) * 1e3 for contestant in contestants]  # the one warm-up
    for _ in range(protocol.repeats):
        for contestant, samples_ms in zip(contestants, samples, strict=True):
            samples_ms.append(_time(contestant.network, inputs, 1) * 1e3)
    latencies = [latency(batch_size, ms, 1, 1, first) for ms, first in zip(samples, first_ms, strict=True)]
    return latencies, "protocol"


def _time(model: Network, inputs: list[Batch], calls: int, start: int = 0) -> float:
    """Return the mean seconds per call of consecutive calls, which rotate over the inputs."""
    turns = [inputs[(start + index) % len(inputs)] for index in range(calls)]
    started = time.perf_counter()
    for batch in turns:
        model(*batch)
    return (time.perf_counter() - started) / calls

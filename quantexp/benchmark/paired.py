"""The protocol `paired`: the networks run alternately, and are copied to new memory many times.

Two copies of one network differ by a few percent, depending on the addresses of their weights. So each placement in
memory is one sample of the speedup, and the interval is computed over placements. A placement has several rounds, and
each round has one block of calls for each network. A block is long enough for the resolution of the clock, but short,
because disturbances of the machine last only milliseconds. A block of many calls is timed in slices, and the networks
alternate after each slice. A call then finds the caches as the other network left them, as in a service that also does
other work. With more than two networks an untimed call comes before each slice: else the more networks are compared,
the emptier would be the caches, and the longer the latencies.

Runtimes with threads of their own let these look for work for a while after a call. With several threads, a rest comes
before that call, so that the threads of another network do not take the cores.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quantexp.benchmark.calls import Placed, Timed, timed
from quantexp.benchmark.energy import Blocks
from quantexp.benchmark.usage import Usage
from quantexp.config import Paired
from quantexp.results import Ended
from quantexp.results.comparison import UNDECIDED, decided
from quantexp.runtimes.prepared import Prepared
from quantexp.statistics.timing import latency, log_interval
from quantexp.system.energy import Meter
from quantexp.tasks.inputs import Batch

BLOCK_SECONDS = 2e-4  # about the shortest block: a disturbance of the machine then also affects the next network
SLICE_SECONDS = 5e-3  # about the longest time before it is the turn of the next network
SPREADS = 4.0  # deviation of the log-ratio of a pair of rounds, over that of placements; docs/measurement.md shows it
LONG_SPREADS = 1.0  # the same where a rest makes blocks long: their means deviate less
MOST_ROUNDS = 100  # in a placement, an even number
RETRIES = 3  # of rounds that were interrupted
GROWTH = 1.2  # of the number of placements between two looks at the interval; each look can end the measurement
WARM_UPS = 4  # balanced rounds before those that are timed, at most
SETTLED = 1.1  # a round is warm if it takes at most so many times as long as those of the last placement
REST_SECONDS = 1e-2  # in which the threads of a runtime fall asleep; as long as they look for work, they take cores
PAIR = 2  # networks
MAX_SHIFT = 1 << 20  # size of the tensor that moves the next copy to another address


def time_paired(
    contestants: Sequence[Prepared], inputs: list[Batch], batch_size: int, protocol: Paired, meter: Meter
) -> Timed:
    """Time the contestants by placements; the first one is the reference of the comparisons.

    Their energy is measured in the same placements, and the time for that does not count as time of the protocol.
    """
    started = time.perf_counter()
    chance = random.Random()  # not seeded: an order shared by all runs would give all of them the same bias
    given = [[contestant.given(batch) for batch in inputs] for contestant in contestants]
    prepared = [Placed(contestant.call, batches) for contestant, batches in zip(contestants, given, strict=True)]
    rests = torch.get_num_threads() > 1 and any(contestant.own_threads for contestant in contestants)
    first_ms = [timed(placed, 1).seconds * 1e3 for placed in prepared]
    call_seconds = [_call_seconds(placed) for placed in prepared]
    several = len(contestants) > PAIR
    block = _Block.of(protocol.calls, min(call_seconds), REST_SECONDS if rests else 0.0, untimed=rests or several)
    placements: list[list[list[float]]] = []  # samples in ms by placement, contestant and round
    usages = [Usage() for _ in contestants]
    energies = Blocks(meter, batch_size, call_seconds, protocol.seconds)
    looks, rounds, units, repeated, usual = _Looks(protocol), None, 0, 0, 0.0
    while True:
        before = time.perf_counter()
        copies = _placed(contestants, given, chance)
        warm_seconds = _warm_up(copies, block, chance, usual)
        rounds = rounds or _rounds(block, time.perf_counter() - before, warm_seconds)
        samples, used, again = _samples(copies, block, rounds, chance)
        usual = block.calls * sum(statistics.median(samples_ms) for samples_ms in samples) / 1e3
        placements.append(samples)
        usages = [total + new for total, new in zip(usages, used, strict=True)]
        units, repeated = units + rounds // block.unit + again, repeated + again
        energies.measure(copies, chance)
        ended = looks.ended(placements, time.perf_counter() - started - energies.seconds)
        if ended:
            break
    latencies = tuple(
        latency(
            batch_size,
            [ms for samples in placements for ms in samples[index]],
            block.calls,
            len(placements),
            first,
            usages[index].per_call(),
            energies.result(index),
        )
        for index, first in enumerate(first_ms)
    )
    return Timed(latencies, ended, repeated / units, energies.missing)


@dataclass(frozen=True)
class _Block:
    """The calls of a network that are timed together as a slice, and the slices of a block.

    A slice can come after a rest, and after an untimed call, which fills the caches and wakes the threads.
    """

    slice_calls: int
    slices: int
    rest_seconds: float = 0.0
    untimed: bool = False

    @classmethod
    def of(cls, least_calls: int, call_seconds: float, rest_seconds: float = 0.0, *, untimed: bool = False) -> _Block:
        """Return the block for a call of `call_seconds`, at least 100 times the resolution of the clock."""
        shortest = SLICE_SECONDS if rest_seconds else BLOCK_SECONDS  # a rest costs as much before a short slice
        least_seconds = max(shortest, 100 * time.get_clock_info("perf_counter").resolution)
        calls = max(least_calls, round(least_seconds / call_seconds))
        slice_calls = min(calls, max(1, round(SLICE_SECONDS / call_seconds)))
        return cls(slice_calls, math.ceil(calls / slice_calls), rest_seconds, untimed)

    @property
    def calls(self) -> int:
        return self.slice_calls * self.slices

    @property
    def unit(self) -> int:
        """The fewest rounds in which each network runs first as often as last."""
        return 1 + self.slices % 2


def _samples(
    copies: Sequence[Placed], block: _Block, rounds: int, chance: random.Random
) -> tuple[list[list[float]], list[Usage], int]:
    """Return the mean milliseconds of a call in each block, by network and round, their usage, and the repetitions.

    Rounds that another process interrupted are measured again, up to `RETRIES` times.
    """
    samples: list[list[float]] = [[] for _ in copies]
    usages = [Usage() for _ in copies]
    again = 0
    for _ in range(0, rounds, block.unit):
        for attempt in range(RETRIES + 1):
            taken, used, interrupted = _unit(copies, block, chance)
            if not interrupted or attempt == RETRIES:
                break
            again += 1
        for kept, new in zip(samples, taken, strict=True):
            kept += new
        usages = [total + new for total, new in zip(usages, used, strict=True)]
    return samples, usages, again


def _unit(
    copies: Sequence[Placed], block: _Block, chance: random.Random
) -> tuple[list[list[float]], list[Usage], bool]:
    """Return the milliseconds of the fewest rounds that are balanced, what they used, and if they were interrupted.

    The order is shuffled for every other turn and reversed in the turn after it. The order changes what a network finds
    in the caches, so each network must run early as often as late.
    """
    samples = [[0.0] * block.unit for _ in copies]
    usages = [Usage() for _ in copies]
    interrupted = False
    order: list[int] = []
    for turn in range(block.unit * block.slices):
        order = order[::-1] if turn % 2 else chance.sample(range(len(copies)), len(copies))
        for index in order:
            if block.rest_seconds:
                time.sleep(block.rest_seconds)
            if block.untimed:
                timed(copies[index], 1, start=turn)
            taken = timed(copies[index], block.slice_calls, start=turn)
            samples[index][turn // block.slices] += taken.seconds * 1e3 / block.slices
            usages[index] += taken.usage
            interrupted |= taken.interrupted
    return samples, usages, interrupted


def _placed(
    contestants: Sequence[Prepared], given: Sequence[Sequence[tuple[Any, ...]]], chance: random.Random
) -> list[Placed]:
    """Copy the contestants to other addresses in memory, in random order because the order affects the addresses."""
    copies: dict[int, Placed] = {}
    shifts = []  # freed after all copies are made
    for index in chance.sample(range(len(contestants)), len(contestants)):
        shifts.append(torch.empty(chance.randrange(1, MAX_SHIFT)))
        copies[index] = Placed(contestants[index].copied(), given[index])
    return [copies[index] for index in range(len(contestants))]


def _call_seconds(placed: Placed) -> float:
    timed(placed, len(placed.inputs))  # warm-up
    return timed(placed, len(placed.inputs)).seconds


def _warm_up(copies: Sequence[Placed], block: _Block, chance: random.Random, usual: float) -> float:
    """Run the copies in turns, as they are timed, until a round takes about the usual seconds; return its seconds.

    In the first calls on new memory the caches and the address translation are filled.
    """
    for _ in range(1 if block.rest_seconds else WARM_UPS):  # a call before each slice warms too
        started = time.perf_counter()
        _unit(copies, block, chance)
        seconds = (time.perf_counter() - started) / block.unit
        if seconds <= SETTLED * usual:
            break
    return seconds


def _rounds(block: _Block, placing_seconds: float, round_seconds: float) -> int:
    """Return the rounds of a placement that make the interval narrowest for the time spent.

    With p placements of n units of rounds, s the deviation of placements and w that of units, the variance of the
    estimate is (s² + w² / n) / p, and its time p · (placing + n · unit). Their product is least for
    n = w / s · sqrt(placing / unit).
    """
    spreads = LONG_SPREADS if block.rest_seconds else SPREADS
    units = spreads * math.sqrt(placing_seconds / (block.unit * round_seconds))
    return block.unit * max(1, min(MOST_ROUNDS // block.unit, round(units)))


class _Looks:
    """When the intervals are looked at, and what they end: few looks, as each could end the measurement by chance."""

    def __init__(self, protocol: Paired) -> None:
        self.protocol = protocol
        self.next = protocol.placements
        self.spent = False

    def ended(self, placements: Sequence[Sequence[Sequence[float]]], seconds: float) -> Ended | None:
        """Return what ends the measurement after these placements, which took `seconds`; None if it continues."""
        protocol, count = self.protocol, len(placements)
        most = protocol.seconds * protocol.extend
        first, *others = zip(*placements, strict=True)
        if count < 2:
            return None
        if not others:
            return "protocol" if count >= protocol.placements or seconds >= protocol.seconds else None
        if seconds * (count + 1) / count > most:  # another placement would take too long
            return "budget"
        now_spent = seconds >= protocol.seconds and not self.spent
        if count < self.next and not now_spent:
            return None
        self.spent = seconds >= protocol.seconds
        self.next = max(count + 1, math.ceil(GROWTH * count))
        intervals = [log_interval(first, other) for other in others]
        if all(_word(*interval, protocol.margin) != UNDECIDED for interval in intervals):
            narrow = all(width <= protocol.narrow for _, width in intervals)
            return "decided" if self.spent else "narrow" if narrow else None
        shrinking = math.sqrt(seconds / most)  # of the widths, if the measurement took the maximum time
        hopeless = any(_word(centre, width * shrinking, protocol.margin) == UNDECIDED for centre, width in intervals)
        return "undecided" if self.spent and hopeless else None


def _word(centre: float, width: float, margin: float) -> str:
    return decided(math.exp(centre - width), math.exp(centre + width), margin)

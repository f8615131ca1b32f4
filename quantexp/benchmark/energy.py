"""The energy of the networks, read from the counters of the CPU packages in the placements of the protocol `paired`.

The counters are updated about every millisecond, and the networks take turns faster than that: between two slices a
counter would say little about which network used the energy. So in each placement, after its rounds, each network runs
alone for a longer block of calls. The first calls of the block come before the first reading, so that both readings
include an update from this network. A block starts and ends anywhere between two updates: that error is random, at most
5 %, and the interval over placements includes it.
"""

from __future__ import annotations

import functools
import logging
import math
import random
import time
from collections.abc import Sequence

from quantexp.benchmark.calls import Placed, timed
from quantexp.config import Benchmark, Paired
from quantexp.results import Energy
from quantexp.statistics.energy import energy
from quantexp.system.energy import EnergyError, Meter

BLOCK_SECONDS = 0.02  # of calls between two readings, about 20 updates of a counter
LEAD_SECONDS = 0.003  # of calls before the first reading
MOST_PLACEMENTS = 20  # so that it takes about a second more for two networks
LEAST_PLACEMENTS = 5  # also if they take longer than the time of the protocol
RETRIES = 3  # of blocks that were interrupted
STOPPED = "the energy counters did not change while a network ran, as in some virtual machines"
log = logging.getLogger(__name__)


class Blocks:
    """The blocks of calls whose energy is measured: one in each placement for each network."""

    def __init__(self, meter: Meter, batch_size: int, call_seconds: Sequence[float], most_seconds: float) -> None:
        self.meter = meter
        self.most_seconds = most_seconds
        self.batch_size = batch_size
        self.call_seconds = call_seconds
        self.joules: list[list[float]] = [[] for _ in call_seconds]  # for one example, by network and placement
        self.missing = meter.missing
        self.seconds = 0.0  # that measuring energy took

    def measure(self, copies: Sequence[Placed], chance: random.Random) -> None:
        """Measure a block of each network, in random order; without counters, or with enough placements, do nothing."""
        count = len(self.joules[0])
        spent = count >= LEAST_PLACEMENTS and self.seconds > self.most_seconds
        if self.missing or spent or count >= MOST_PLACEMENTS:
            return
        started = time.perf_counter()
        for index in chance.sample(range(len(copies)), len(copies)):
            try:
                joules = self._block(copies[index], self.call_seconds[index])
            except EnergyError as error:
                self.missing = str(error)
                return
            if joules <= 0:
                self.missing = STOPPED
                return
            self.joules[index].append(joules)
        self.seconds += time.perf_counter() - started

    def result(self, index: int) -> Energy | None:
        """Return the energy of a network, None where it could not be measured."""
        return None if self.missing else energy(self.joules[index])

    def _block(self, placed: Placed, call_seconds: float) -> float:
        """Return the joules for one example in a block of calls; an interrupted block is measured again."""
        lead, calls = (math.ceil(seconds / call_seconds) for seconds in (LEAD_SECONDS, BLOCK_SECONDS))
        for _ in range(RETRIES + 1):
            timed(placed, lead)
            before = self.meter.now()
            taken = timed(placed, calls)
            joules = self.meter.joules(before, self.meter.now())
            if not taken.interrupted:
                break
        return joules / (calls * self.batch_size)


def missing(meter: Meter, protocol: Benchmark) -> str:
    """Return why the protocol measures no energy on this machine; empty if it does."""
    if meter.missing or isinstance(protocol, Paired):
        return meter.missing
    return f"benchmark={protocol.name} times single calls, which are too short for the counter; use benchmark=paired"


@functools.cache  # once a process: every run of a sweep has the same reason
def say_missing(reason: str) -> None:
    """Say why energy was not measured; nothing if it was."""
    if reason:
        log.info("measure   energy is not measured: %s", reason)

"""Timed calls of a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from quantexp.benchmark.usage import Usage, used
from quantexp.results import Ended, Latency

LEAST_WAIT_SECONDS = 2e-5  # shorter waits are within the resolution of the CPU time
WAIT_SHARE = 0.01  # of the time of the calls

Network: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Placed:
    """A network in memory, called as `network(*batch)`, and the batches that its calls rotate over."""

    network: Network
    inputs: Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Timed:
    """The latency of each network, what ended the measurement, and the share of it that was repeated.

    `no_energy` says why energy was not measured; it is empty if it was.
    """

    latencies: tuple[Latency, ...]
    ended_by: Ended
    repeated: float = 0.0
    no_energy: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """The mean seconds of a call, whether the operating system ran something else meanwhile, and what was used."""

    seconds: float
    interrupted: bool
    usage: Usage


def timed(placed: Placed, calls: int, start: int = 0) -> Taken:
    """Time consecutive calls, which rotate over the inputs."""
    network, inputs = placed.network, placed.inputs
    turns = [inputs[(start + index) % len(inputs)] for index in range(calls)]
    before = used()
    cpu_seconds = time.thread_time()
    started = time.perf_counter()
    for batch in turns:
        network(*batch)
    seconds = time.perf_counter() - started
    waited = seconds - (time.thread_time() - cpu_seconds)
    # With several threads this one also waits for the others.
    interrupted = torch.get_num_threads() == 1 and waited > max(LEAST_WAIT_SECONDS, WAIT_SHARE * seconds)
    return Taken(seconds / calls, interrupted, before.until(used(), calls))

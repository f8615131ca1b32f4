"""The threads that a runtime computes with, which are not those of torch: asked for, then proven."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from quantexp.system.errors import BenchmarkError

OBSERVED_SECONDS = 0.02  # of calls, in which the CPU time of other threads is taken
TRIES = 5
MOST_BESIDE = 0.1  # of the time of the calling thread, that other threads of this process may use beside one thread
PROBED_SECONDS = 0.2  # of calls of a probe, in which also a thread that waits for a busy core gets some time
PART_SECONDS, LONGEST_SECONDS = 0.1, 3.0  # of calls of a probe, until each thread has taken LEAST_SECONDS of CPU time
LEAST_SECONDS = 0.02  # the resolution is 0.01
MOST_MORE = 0.25  # of the time of a thread, that other threads of this process may use beside several
TASKS = Path("/proc/self/task")  # a folder for each thread of this process, on Linux
T = TypeVar("T")


def made_with(runtime: str, count: int, make: Callable[[], T], call: Callable[[T], object]) -> T:
    """Make an executable network with `make`, and check that it computes with `count` threads.

    With one thread no other thread may take CPU time while it runs. With several, so many more must exist afterwards:
    whether each has work depends on the size of the batch.

    Args:
        runtime: Its name, for the error.
        count: The threads that were asked for, the calling one included.
        make: Makes the network with a pool of threads of its own.
        call: Runs it once.

    Raises:
        BenchmarkError: If it computes with another number.
    """
    before = _alive()
    network = make()
    call(network)
    added = _alive() - before
    if count > 1 and TASKS.is_dir() and added != count - 1:
        raise BenchmarkError(
            f"runtime={runtime} must compute with {count} threads, it has {1 + added}; use benchmark.threads=1"
        )
    if count == 1 and (share := beside(lambda: call(network))) > MOST_BESIDE:
        raise BenchmarkError(
            f"runtime={runtime} must compute with 1 thread, others took {share:.0%} of its CPU time; use runtime=eager"
        )
    return network


def shares_with(runtime: str, count: int, call: Callable[[], object], probe: Callable[[], object]) -> None:
    """Check that a network computes with `count` threads of a pool that several networks share, and that grows late.

    With one thread no other thread may take CPU time while it runs, nor while a probe does, which has work for many
    threads. With several, the probe is called until so many have taken CPU time, and together they may not take more
    than so many could.

    Args:
        runtime: Its name, for the error.
        count: The threads that were asked for, the calling one included.
        call: Runs the network once.
        probe: Runs a network with much work once, which was made with the same settings.

    Raises:
        BenchmarkError: If it computes with another number.
    """
    if count == 1:
        if (share := max(beside(call), beside(probe, PROBED_SECONDS))) > MOST_BESIDE:
            raise BenchmarkError(
                f"runtime={runtime} must compute with 1 thread, others took {share:.0%} of its CPU time; "
                "use runtime=eager"
            )
        return
    started, spent, before = time.perf_counter(), time.process_time(), _cpu_seconds()
    taking = 0
    while taking < count and time.perf_counter() - started < LONGEST_SECONDS:
        until = time.perf_counter() + PART_SECONDS
        while time.perf_counter() < until:
            probe()
        took = (seconds - before.get(thread, 0.0) for thread, seconds in _cpu_seconds().items())
        taking = sum(seconds >= LEAST_SECONDS for seconds in took)
    at_once = (time.process_time() - spent) / (time.perf_counter() - started)
    if taking < count or at_once > count + MOST_MORE:
        found = f"{taking} took part" if taking < count else f"{at_once:.1f} took part at once"
        raise BenchmarkError(
            f"runtime={runtime} must compute with {count} threads, {found}; use benchmark.threads=1, or at most "
            "as many as there are cores"
        )


def beside(call: Callable[[], object], seconds: float = OBSERVED_SECONDS) -> float:
    """Return the CPU time of the other threads of this process while `call` runs, as a share of that of this one.

    It is the least of a few tries if the first are above MOST_BESIDE: another thread of this process may have something
    to do for a moment, while the threads of a runtime have in each try.
    """
    least = math.inf
    for _ in range(TRIES):
        least = min(least, _share_of_others(call, seconds))
        if least <= MOST_BESIDE:
            break
    return least


def _share_of_others(call: Callable[[], object], seconds: float) -> float:
    started, own, all_of_them = time.perf_counter(), time.thread_time(), time.process_time()
    while time.perf_counter() - started < seconds:
        call()
    spent = time.thread_time() - own
    return max(0.0, time.process_time() - all_of_them - spent) / spent


def _cpu_seconds() -> dict[int, float]:
    """Return the CPU time that each thread of this process has taken."""
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process().threads()}


def _alive() -> int:
    """Return how many threads this process has, as the system counts them; 0 where that is unknown."""
    return len(list(TASKS.iterdir())) if TASKS.is_dir() else 0

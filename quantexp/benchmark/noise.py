"""Disturbances of a measurement: other processes, the hypervisor, too many threads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from quantexp.results import Latency
from quantexp.statistics.timing import uncertainty
from quantexp.system.environment import usable_cores

OTHERS_SHARE = 0.1  # of the cores; an idle system is below it
STEAL_SHARE = 0.01
UNCERTAINTY = 0.1  # half the width of an interval, as a share
SPREAD = 0.5  # of the median, between the 10th and the 90th percentile of the calls, where there is no interval
SPARE_CORES = 0.3  # above the number of threads; the background work of torch needs less
LEAST_SECONDS = 0.2  # CPU times have a resolution of 10 ms: over shorter times, shares are rounding errors


@dataclass(frozen=True)
class Load:
    """The load of the host during a measurement; see `Conditions` for the units."""

    seconds: float
    cores_used: float
    others_load: float
    steal: float


class Clock:
    """A clock for the CPU times of the host and of this process; it starts when it is created."""

    def __init__(self) -> None:
        self._start = _readings()

    def read(self) -> Load:
        """Return the load since the clock was created."""
        wall, own, busy, steal, total = (now - then for now, then in zip(_readings(), self._start, strict=True))
        wall = max(wall, 1e-9)
        return Load(wall, own / wall, max(0.0, (busy - own) / wall), steal / total if total > 0 else 0.0)


def reasons(load: Load, threads: int, latencies: Sequence[Latency]) -> tuple[str, ...]:
    """Return the reasons not to trust latencies measured under `load`; empty if there are none."""
    cores, host_cores = usable_cores(), psutil.cpu_count() or usable_cores()  # the load is that of the host
    found = []
    measurable = load.seconds >= LEAST_SECONDS
    if measurable and load.others_load > OTHERS_SHARE * host_cores:
        found.append(f"other processes kept {load.others_load:.1f} of {host_cores} cores busy")
    if measurable and load.steal > STEAL_SHARE:
        found.append(f"the hypervisor took {load.steal:.0%} of the CPU time")
    if threads > cores:
        found.append(f"{threads} threads share {cores} cores")
    if measurable and load.cores_used > threads + SPARE_CORES:
        found.append(f"this process used {load.cores_used:.1f} cores for {threads} threads")
    return (*found, *_from_samples(latencies))


def _from_samples(latencies: Sequence[Latency]) -> Iterator[str]:
    """Yield the reasons that the samples give: a wide interval, or without intervals samples that differ much."""
    if latencies[0].placements > 1:
        half_width = uncertainty(latencies)
        if half_width > UNCERTAINTY:
            yield f"the {'latency' if len(latencies) == 1 else 'speedup'} is only known to ±{half_width:.0%}"
        return
    spread = max((latency.p90_ms - latency.p10_ms) / latency.median_ms for latency in latencies)
    if spread > SPREAD:
        yield f"the timed blocks spread by {spread:.0%} of their median"


def _readings() -> tuple[float, float, float, float, float]:
    """Return wall time, CPU time of this process, and busy, stolen and total CPU time of the host, in seconds."""
    host = psutil.cpu_times()._asdict()
    idle = host["idle"] + host.get("iowait", 0.0)
    steal = host.get("steal", 0.0)
    total = sum(
        value for name, value in host.items() if name not in ("guest", "guest_nice")
    )  # user and nice include them
    own = os.times()
    return time.perf_counter(), own.user + own.system, total - idle - steal, steal, total

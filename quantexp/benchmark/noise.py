"""What goes on beside a measurement: other processes, the hypervisor, threads that were not asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from quantexp.results import Latency
from quantexp.system.environment import usable_cores

OTHERS_SHARE = 0.1  # of the cores; an idle system stays below
STEAL_SHARE = 0.01
SPREAD = 0.5  # of the median, between the 10th and the 90th percentile of the blocks
SPARE_CORES = 0.3  # more than the threads asked for: torch's own housekeeping needs less
LEAST_SECONDS = 0.2  # systems count the work of their cores in hundredths of a second: below, shares are rounding


@dataclass(frozen=True)
class Load:
    """What ran on the host while a clock was on; see `Conditions` for the units."""

    seconds: float
    cores_used: float
    others_load: float
    steal: float


class Clock:
    """Reads the CPU times of the host and of this process from its making on."""

    def __init__(self) -> None:
        self._begun = _readings()

    def read(self) -> Load:
        """Return what ran since the clock was made."""
        wall, own, busy, steal, total = (now - then for now, then in zip(_readings(), self._begun, strict=True))
        wall = max(wall, 1e-9)
        return Load(wall, own / wall, max(0.0, (busy - own) / wall), steal / total if total > 0 else 0.0)


def reasons(load: Load, threads: int, latencies: Sequence[Latency]) -> tuple[str, ...]:
    """Return why the latencies taken under `load` are not to be trusted, nothing if there is no reason."""
    cores, whole = usable_cores(), psutil.cpu_count() or usable_cores()  # the load is that of the whole host
    found = []
    counted = load.seconds >= LEAST_SECONDS
    if counted and load.others_load > OTHERS_SHARE * whole:
        found.append(f"other processes kept {load.others_load:.1f} of {whole} cores busy")
    if counted and load.steal > STEAL_SHARE:
        found.append(f"the hypervisor took {load.steal:.0%} of the CPU time")
    if threads > cores:
        found.append(f"{threads} threads share {cores} cores")
    if counted and load.cores_used > threads + SPARE_CORES:
        found.append(f"this process used {load.cores_used:.1f} cores for {threads} threads")
    spread = max((one.p90_ms - one.p10_ms) / one.median_ms for one in latencies)
    if spread > SPREAD:
        found.append(f"the timed blocks spread by {spread:.0%} of their median")
    return tuple(found)


def _readings() -> tuple[float, float, float, float, float]:
    """Return wall time, CPU time of this process, busy, stolen and whole CPU time of the host, in seconds."""
    host = psutil.cpu_times()._asdict()
    idle = host["idle"] + host.get("iowait", 0.0)
    steal = host.get("steal", 0.0)
    whole = sum(value for name, value in host.items() if name not in ("guest", "guest_nice"))  # they are in user
    own = os.times()
    return time.perf_counter(), own.user + own.system, whole - idle - steal, steal, whole

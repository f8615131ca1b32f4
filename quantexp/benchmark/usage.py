"""What the operating system counts while networks run: page faults, and the CPU time that it spends itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantexp.results import Latency, Resources
from quantexp.results.text import share_text

try:
    import resource
except ImportError:  # Windows
    COUNTS = False
else:
    COUNTS = True

SYSTEM_SHARE = 0.1  # of the CPU time of a network; above, the system decides a comparison with it
LEAST_CPU_SECONDS = 0.1  # the clock ticks a few hundred times a second: in shorter times, shares are rounding errors
LEAST_FAULTS = 1  # in a call


@dataclass(frozen=True, slots=True)
class Usage:
    """What the calls of a network used, in all threads together.

    `minor_faults` are page faults that read nothing from a disk; `system_seconds` is the part of the CPU time that was
    spent in the system.
    """

    calls: int = 0
    minor_faults: int = 0
    system_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.minor_faults + other.minor_faults,
            self.system_seconds + other.system_seconds,
            self.cpu_seconds + other.cpu_seconds,
        )

    def until(self, later: Usage, calls: int) -> Usage:
        """Return what was used from this reading to a later one, by so many calls."""
        return Usage(
            calls,
            later.minor_faults - self.minor_faults,
            later.system_seconds - self.system_seconds,
            later.cpu_seconds - self.cpu_seconds,
        )

    def per_call(self) -> Resources | None:
        """Return the means over the calls; None where the system counts nothing."""
        if not COUNTS or not self.calls:
            return None
        return Resources(
            calls=self.calls,
            minor_faults_per_call=self.minor_faults / self.calls,
            system_ms_per_call=1e3 * self.system_seconds / self.calls,
            cpu_ms_per_call=1e3 * self.cpu_seconds / self.calls,
        )


def used() -> Usage:
    """Return what this process has used since it started."""
    if not COUNTS:
        return Usage()
    now = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(0, now.ru_minflt, now.ru_stime, now.ru_utime + now.ru_stime)


def system_reasons(latencies: Sequence[Latency], names: Sequence[str]) -> Iterator[str]:
    """Yield for each network whose CPU time is to a large part that of the system, that this decides the comparison.

    Without page faults the share must also be larger than that of another network: the system divides the time of the
    process by its clock ticks, so that calls of some microseconds also get a part of the system time around them.
    """
    shares = [latency.resources.system_share for latency in latencies if latency.resources]
    for latency, name in zip(latencies, names, strict=True):
        found = latency.resources
        if found is None or found.calls * found.cpu_ms_per_call < 1e3 * LEAST_CPU_SECONDS:
            continue
        decides = found.minor_faults_per_call >= LEAST_FAULTS or found.system_share > min(shares) + SYSTEM_SHARE
        if found.system_share > SYSTEM_SHARE and decides:
            yield (
                f"the operating system took {share_text(found.system_share)} of the CPU time of {name} "
                f"({found.minor_faults_per_call:,.0f} page faults a call), which says little about the network"
            )

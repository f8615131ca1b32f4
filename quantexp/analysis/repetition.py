"""Whether the speedups of a run and of its re-run agree; quality and size must be equal, latencies are not compared."""

from __future__ import annotations

from quantexp.results import Speedup

CLOSE = 0.05  # a relative difference up to which two measurements of a speedup agree


def relative_change(before: Speedup, after: Speedup) -> float:
    """Return by which share the second speedup is greater."""
    return after.ratio / before.ratio - 1


def overlap(before: Speedup, after: Speedup) -> bool:
    """Return whether the confidence intervals of two speedups overlap; False if one has none."""
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return False
    return max(before.low, after.low) <= min(before.high, after.high)

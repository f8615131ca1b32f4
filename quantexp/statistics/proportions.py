"""Intervals of proportions."""

from __future__ import annotations

from scipy import stats

CONFIDENCE = 0.95


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the Wilson interval of a share (Wilson 1927): its lower and its upper end."""
    interval = stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)

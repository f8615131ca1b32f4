"""Confidence intervals of proportions."""

from __future__ import annotations

from scipy import stats

CONFIDENCE = 0.95


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the lower and the upper end of the Wilson confidence interval of a proportion (Wilson 1927)."""
    interval = stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)

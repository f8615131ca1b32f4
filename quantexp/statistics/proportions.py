"""Confidence intervals of proportions."""

from __future__ import annotations

import math

from scipy.special import ndtri  # scipy.stats would take ten times as long to import

CONFIDENCE = 0.95


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the lower and the upper end of the Wilson confidence interval of a proportion (Wilson 1927)."""
    z, share = float(ndtri(0.5 + CONFIDENCE / 2)), correct / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    reach = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / (1 + z**2 / total)
    return (centre - reach if correct else 0.0), (centre + reach if correct < total else 1.0)

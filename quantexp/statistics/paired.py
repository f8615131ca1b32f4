"""Paired comparison of two networks on the same labelled examples: the exact McNemar test, its power, the interval.

scipy.stats is imported where it is used: a process that measures does not compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from quantexp.statistics.proportions import CONFIDENCE

if TYPE_CHECKING:
    from torch import Tensor

POWER = 0.8


def flips(float_predicted: Tensor, predicted: Tensor, labels: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the indices of the examples that only the second network classifies correctly, and only the first."""
    float_right, right = float_predicted == labels, predicted == labels
    gained, lost = (right & ~float_right).nonzero().flatten(), (float_right & ~right).nonzero().flatten()
    return tuple(gained.tolist()), tuple(lost.tolist())


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of the exact McNemar test (McNemar 1947): are gains and losses equally likely?

    If they are, the number of lost examples is binomial with probability 1/2, given the number of examples that
    changed. If none changed, the p-value is 1.
    """
    from scipy import stats

    return float(stats.binomtest(lost, gained + lost).pvalue) if gained + lost else 1.0


def drop_interval(gained: int, lost: int, total: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of the drop in accuracy: the score interval of Tango (1998).

    A drop d lies in it if |lost - gained - total d| <= z sqrt(total (2 q + d (1 - d))). There q is the share of gained
    examples that is most likely if the drop is d: (sqrt(b^2 - 4 a c) - b) / (2 a), with a = 2 total,
    b = (2 total - lost + gained) d - lost - gained, c = -gained d (1 - d). Without any flip the interval is not empty,
    and at d = 0 the condition is that of the McNemar test.
    """
    drop, z = (lost - gained) / total, float(ndtri(0.5 + CONFIDENCE / 2))

    def is_out(true_drop: float) -> bool:
        return abs(_score(true_drop, gained, lost, total)) > z

    return _edge(drop, -1.0, is_out), _edge(drop, 1.0, is_out)


def _score(drop: float, gained: int, lost: int, total: int) -> float:
    """Return how many standard deviations the observed drop is above `drop`, if that is the true one."""
    a, b = 2 * total, (2 * total - lost + gained) * drop - lost - gained
    c = -gained * drop * (1 - drop)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = total * (2 * share + drop * (1 - drop))
    difference = lost - gained - total * drop
    return difference / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, difference)


def _edge(inside: float, outside: float, is_out: Callable[[float], bool]) -> float:
    """Return the value between two at which `is_out` becomes true, by bisection; `outside` if it never does."""
    if not is_out(outside):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_out(middle) else (middle, outside)
    return inside


def detectable_drop(gained: int, lost: int, total: int) -> float:
    """Return the minimum detectable drop in accuracy: the smallest that the exact McNemar test finds with 80 % power.

    The share of examples that change is the observed one or, if that is smaller than the drop, the drop itself. The
    power is that of the exact test at the 5 % level, averaged over the binomial number of changed examples (the
    unconditional power of Miettinen 1968). If no drop can be detected, the result is 1.
    """
    flipped = gained + lost
    low, high = 0, total  # the power at `low` is too small
    if mcnemar_power(total, max(flipped, total), total) < POWER:
        return 1.0
    while high - low > 1:
        middle = (low + high) // 2
        if mcnemar_power(middle, max(flipped, middle), total) >= POWER:
            high = middle
        else:
            low = middle
    return high / total


def mcnemar_power(net: int, flipped: int, total: int) -> float:
    """Return the power of the exact test at the 5 % level if `net` more examples are lost than gained.

    On average `flipped` of `total` examples change, and (flipped + net) / 2 of them are lost.
    """
    from scipy import stats

    count = stats.binom(total, flipped / total)
    flips_seen = np.arange(int(count.ppf(1e-6)), int(count.ppf(1 - 1e-6)) + 1)
    reject_at = _largest_rejected(flips_seen)
    worse = (flipped + net) / (2 * flipped)
    rejected = stats.binom.cdf(reject_at, flips_seen, worse) + stats.binom.cdf(reject_at, flips_seen, 1 - worse)
    return float((count.pmf(flips_seen) * rejected).sum())


def _largest_rejected(flips_seen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the largest count of the rarer direction that is rejected at the 5 % level, -1 where none is."""
    from scipy import stats

    level = (1 - CONFIDENCE) / 2
    candidate = stats.binom.ppf(level, flips_seen, 0.5)
    largest: NDArray[np.float64] = np.where(
        stats.binom.cdf(candidate, flips_seen, 0.5) <= level, candidate, candidate - 1
    )
    return largest

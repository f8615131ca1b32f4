"""Two networks on the same labelled examples: which of them changed sides, and whether that is more than chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from quantexp.statistics.proportions import CONFIDENCE

if TYPE_CHECKING:
    from torch import Tensor

POWER = 0.8


def flips(float_predicted: Tensor, predicted: Tensor, labels: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return which examples only the second model gets right, and which only the first does, by their index."""
    float_right, right = float_predicted == labels, predicted == labels
    gained, lost = ((one & ~other).nonzero().flatten() for one, other in ((right, float_right), (float_right, right)))
    return tuple(gained.tolist()), tuple(lost.tolist())


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of the exact McNemar test (McNemar 1947): is a flip as likely either way?

    Given how many examples flipped, the number of those lost is binomial with probability 1/2; without
    a flip there is nothing to tell, and the value is 1.
    """
    return float(stats.binomtest(lost, gained + lost).pvalue) if gained + lost else 1.0


def detectable_drop(gained: int, lost: int, total: int) -> float:
    """Return the least true drop in accuracy that the exact McNemar test tells from none with 80 % power.

    Of `total` examples a share flips, as large as was seen or, if that is less than the drop, as large as
    the drop itself; the power is that of the exact test at the 5 % level, over the binomial number of flips
    (the unconditional power of Miettinen 1968). Is no drop large enough, it is 1.
    """
    flipped = gained + lost
    low, high = 0, total  # power(low) is too small
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
    """Return the probability that the exact test at the 5 % level rejects, with `net` more lost than gained.

    `flipped` of `total` examples flip on average, (flipped + net) / 2 of them to the worse.
    """
    count = stats.binom(total, flipped / total)
    flips_seen = np.arange(int(count.ppf(1e-6)), int(count.ppf(1 - 1e-6)) + 1)
    reject_at = _largest_rejected(flips_seen)
    worse = (flipped + net) / (2 * flipped)
    rejected = stats.binom.cdf(reject_at, flips_seen, worse) + stats.binom.cdf(reject_at, flips_seen, 1 - worse)
    return float((count.pmf(flips_seen) * rejected).sum())


def _largest_rejected(flips_seen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the largest count in the rarer direction that rejects at the 5 % level, -1 where none does."""
    level = (1 - CONFIDENCE) / 2
    candidate = stats.binom.ppf(level, flips_seen, 0.5)
    largest: NDArray[np.float64] = np.where(
        stats.binom.cdf(candidate, flips_seen, 0.5) <= level, candidate, candidate - 1
    )
    return largest

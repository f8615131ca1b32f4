"""Statistics over seeds: mean and standard deviation, and paired differences between two methods.

A difference is computed per seed, because two methods with the same seed start from the same float network and see the
same examples. Its confidence interval is Student's t over the seeds; with two seeds it is wide (t = 12.7).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation of `n` values; the deviation of a single value is None."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of `n` paired differences with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of at least one value."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def difference(pairs: Sequence[float], step: float = 0.0) -> Difference | None:
    """Return the mean of paired differences with its interval, None for fewer than two.

    Values in steps, such as accuracies, may be equal by chance. So the standard deviation is at least that of two
    values rounded to `step`, which is step / sqrt(6).
    """
    if len(pairs) < 2:
        return None
    from scipy.special import stdtrit

    mean = statistics.fmean(pairs)
    error = max(statistics.stdev(pairs), step / math.sqrt(6)) / math.sqrt(len(pairs))
    reach = error * float(stdtrit(len(pairs) - 1, 0.5 + CONFIDENCE / 2))
    return Difference(mean, mean - reach, mean + reach, len(pairs))


def paired(first: Mapping[int, float], second: Mapping[int, float], step: float = 0.0) -> Difference | None:
    """Return how much greater the first values are than the second, over the seeds that both have."""
    return difference([first[seed] - second[seed] for seed in first if seed in second], step)

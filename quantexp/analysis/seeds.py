"""Figures over seeds: their mean and deviation, and what the differences between two methods show.

A difference is taken seed by seed, because two methods of one seed start from the same float model and see the
same examples; its interval is Student's t over the seeds. Two seeds tell little: t is 12.7 there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean of `n` values, and the standard deviation of the sample, None for a single one."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of `n` paired differences with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def significant(self) -> bool:
        """Whether the interval tells the difference from none."""
        return self.low > 0 or self.high < 0


def spread(values: Sequence[float]) -> Spread:
    """Return mean and deviation of one value or more."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def difference(pairs: Sequence[float], step: float = 0.0) -> Difference | None:
    """Return the mean of paired differences with its interval, None of fewer than two.

    What comes in steps, as accuracies do in examples, may agree by chance: the deviation is taken to be no less
    than that of two values rounded to `step`, which is step / sqrt(6).
    """
    if len(pairs) < 2:
        return None
    from scipy import stats

    mean = statistics.fmean(pairs)
    error = max(statistics.stdev(pairs), step / math.sqrt(6)) / math.sqrt(len(pairs))
    reach = error * float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(pairs) - 1))
    return Difference(mean, mean - reach, mean + reach, len(pairs))


def paired(ones: Mapping[int, float], others: Mapping[int, float], step: float = 0.0) -> Difference | None:
    """Return how much greater the first values are than the second, by seed, over the seeds that both have."""
    return difference([ones[seed] - others[seed] for seed in ones if seed in others], step)

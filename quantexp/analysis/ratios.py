"""Speedups of one variant over another, with confidence intervals.

With one seed, the intervals are those of the two runs, over their placements. With several seeds, the ratio is computed
per seed. Two methods are compared through the float network, which each of them was timed against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from quantexp.analysis.seeds import difference, paired
from quantexp.analysis.variants import Variant
from quantexp.results import EnergyRatio, Speedup
from quantexp.results.comparison import FASTER, NO_INTERVAL, SLOWER, decided


@dataclass(frozen=True, slots=True)
class Ratio:
    """The logarithm of a speedup, and half the width of its 95 % interval (None without an interval).

    `margin` is the smallest difference that is called faster or slower, as a logarithm too.
    """

    centre: float
    reach: float | None
    margin: float

    @property
    def verdict(self) -> str:
        """What the interval decides, in the words of `Speedup.word`."""
        if self.reach is None:
            return NO_INTERVAL
        low, high = math.exp(self.centre - self.reach), math.exp(self.centre + self.reach)
        return decided(low, high, math.expm1(self.margin))

    @property
    def significant(self) -> bool:
        """Whether one is faster than the other."""
        return self.verdict in (FASTER, SLOWER)

    @property
    def short(self) -> str:
        """The speedup without its interval: `2.50x`."""
        return f"{math.exp(self.centre):.{self._digits}f}x"

    def __str__(self) -> str:
        if self.reach is None:
            return self.short
        low, high = math.exp(self.centre - self.reach), math.exp(self.centre + self.reach)
        return f"{self.short} [{low:.{self._digits}f}, {high:.{self._digits}f}]"

    @property
    def _digits(self) -> int:
        return 2 if self.centre > math.log(0.1) else 4  # so that 0.0085x is not shown as 0.01x


def over_float(variant: Variant, size: int) -> Ratio | None:
    """Return the speedup of a variant over the float network, None if it was not measured."""
    return over_seeds_of(variant.speedups(size))


def over_runtime(variant: Variant, runtime: str, size: int) -> Ratio | None:
    """Return the speedup over the float network in a further runtime, None if it was not measured."""
    return over_seeds_of(variant.speedups_over(runtime, size))


def energy_over_float(variant: Variant, size: int) -> Ratio | None:
    """Return the energy of the float network over that of a variant, None if it was not measured."""
    return over_seeds_of(variant.energy_ratios(size))


def over_seeds(variant: Variant, other: Variant, size: int) -> Ratio | None:
    """Return the speedup of one variant over another, None if they share fewer than two seeds at this batch size."""
    found = paired(variant.log_speedups(size), other.log_speedups(size))
    margin = max(_margin(variant.speedups(size)), _margin(other.speedups(size)))
    return Ratio(found.mean, found.high - found.mean, margin) if found else None


def between(variant: Variant, other: Variant, size: int) -> Ratio | None:
    """Return the speedup of one quantized variant over another, None if one of them was not measured."""
    first, second = over_float(variant, size), over_float(other, size)
    if first is None or second is None:
        return None
    if found := over_seeds(variant, other, size):
        return found
    reach = None
    if first.reach is not None and second.reach is not None:
        reach = math.hypot(first.reach, second.reach)  # the runs are separate, so their errors are independent
    return Ratio(first.centre - second.centre, reach, max(first.margin, second.margin))


def over_seeds_of(speedups: Mapping[int, Speedup | EnergyRatio]) -> Ratio | None:
    """Return a ratio over the seeds; with one seed it has the interval of that run."""
    if not speedups:
        return None
    margin = _margin(speedups)
    if seeds := difference([math.log(speedup.ratio) for speedup in speedups.values()]):
        return Ratio(seeds.mean, seeds.high - seeds.mean, margin)
    (single,) = speedups.values()
    if single.low is None or single.high is None:
        return Ratio(math.log(single.ratio), None, margin)
    return Ratio(math.log(single.ratio), (math.log(single.high) - math.log(single.low)) / 2, margin)


def _margin(speedups: Mapping[int, Speedup | EnergyRatio]) -> float:
    return math.log1p(max((speedup.margin for speedup in speedups.values()), default=0.0))

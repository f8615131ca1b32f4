"""Pairs of methods, compared over the seeds that both have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from quantexp.analysis.quality import Change
from quantexp.analysis.ratios import Ratio, over_seeds
from quantexp.analysis.seeds import paired
from quantexp.analysis.variants import Network, Variant


@dataclass(frozen=True, slots=True)
class MethodPair:
    """Two methods over `seeds` seeds, and the change of quality from the first to the second (None without labels)."""

    first: Variant
    second: Variant
    seeds: int
    change: Change | None

    def speedup(self, size: int) -> Ratio | None:
        """Return the speedup of the second method over the first, None if one of them was not measured."""
        return over_seeds(self.second, self.first, size)


def method_pairs(network: Network) -> Iterator[MethodPair]:
    """Yield the pairs of methods that share at least two seeds; of one method, those that differ in one setting."""
    for first, second in combinations(network.variants, 2):
        shared = len(first.reports.keys() & second.reports.keys())
        apart = first.quant == second.quant and len(set(first.settings) ^ set(second.settings)) > 2
        if shared > 1 and not apart:
            change = paired(second.qualities(), first.qualities(), second.step)
            yield MethodPair(first, second, shared, Change(None, change) if change else None)

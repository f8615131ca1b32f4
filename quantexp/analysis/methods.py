"""Pairs of methods, compared over the seeds that both have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from quantexp.analysis.quality import Change
from quantexp.analysis.ratios import Ratio, over_seeds
from quantexp.analysis.seeds import paired
from quantexp.analysis.variants import Network, Variant

MANY = 24  # variants of a network: with all their pairs, the table would be longer than that of all runs


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
    """Yield the pairs of methods that share at least two seeds; of one method, those that differ in one setting.

    Of more than MANY variants, different methods are compared with the float network only.
    """
    known = [(variant, variant.reports.keys(), set(variant.settings), variant.is_float) for variant in network.variants]
    many = len(known) > MANY
    for (first, seeds, settings, is_float), (second, others, more, _) in combinations(known, 2):
        alike = first.quant == second.quant
        apart = len(settings ^ more) > 2 if alike else many and not is_float  # the float network is the first
        shared = 0 if apart else len(seeds & others)
        if shared > 1:
            change = paired(second.qualities(), first.qualities(), second.step)
            yield MethodPair(first, second, shared, Change(None, change) if change else None)

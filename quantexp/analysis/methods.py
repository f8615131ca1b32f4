"""Methods compared with each other over the seeds that both have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from quantexp.analysis.quality import Change
from quantexp.analysis.ratios import Ratio, over_seeds
from quantexp.analysis.seeds import paired
from quantexp.analysis.variants import Network, Variant


@dataclass(frozen=True, slots=True)
class Duel:
    """Two methods over `seeds` seeds: the change of quality from the first to the second, and the second's speedups.

    `change` is None without labels.
    """

    first: Variant
    second: Variant
    seeds: int
    change: Change | None

    def speedup(self, size: int) -> Ratio | None:
        """Return how many times as fast the second method is, None where not both were measured."""
        return over_seeds(self.second, self.first, size)


def over_shared_seeds(network: Network) -> Iterator[Duel]:
    """Yield each two methods that share two seeds or more."""
    for first, second in combinations(network.variants, 2):
        shared = len(first.reports.keys() & second.reports.keys())
        if shared > 1:
            change = paired(second.qualities(), first.qualities(), second.step)
            yield Duel(first, second, shared, Change(None, change) if change else None)

"""The Pareto front: what no other beats in one figure without losing in another."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which points no other beats, by rising cost: none has no greater cost and a greater gain, or equal both.

    A point is (cost, gain). Of equal points the first is returned.
    """
    order = sorted(range(len(points)), key=lambda at: (points[at][0], -points[at][1]))
    front, best = [], -math.inf
    for at in order:
        if points[at][1] > best:
            front.append(at)
            best = points[at][1]
    return front

"""The Pareto front: the points that no other point dominates."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, gain) that no other point dominates, by rising cost.

    A point is dominated by one with at most its cost and a greater gain, or a lower cost and the same gain. Of equal
    points, the first is returned.
    """
    order = sorted(range(len(points)), key=lambda at: (points[at][0], -points[at][1]))
    front, best = [], -math.inf
    for at in order:
        if points[at][1] > best:
            front.append(at)
            best = points[at][1]
    return front

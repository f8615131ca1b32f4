"""The range that contains a given share of the values, from their histogram."""

from __future__ import annotations

from torch import Tensor


def percentile_range(histogram: Tensor, least: Tensor, most: Tensor, percentile: float) -> tuple[Tensor, Tensor]:
    """Return the bounds that exclude (100 - percentile) / 2 percent of the values on each side.

    Args:
        histogram: Counts of equally wide bins from `least` to `most`, shape (bins,).
        least: The smallest value, shape ().
        most: The largest value, shape ().
        percentile: The percentage of the values within the bounds; 100 gives `least` and `most`.

    Each bound is at the edge of a bin, so the range can be up to one bin wider on each side.
    """
    seen = histogram.double().cumsum(0) / histogram.double().sum()
    tail = (100.0 - percentile) / 200.0
    width = (most - least) / len(histogram)
    first = int((seen <= tail).sum())  # bins that are completely in the lower tail
    behind = int((seen >= 1.0 - tail - 1e-12).sum()) - 1  # bins after the one in which the upper tail begins
    return least + width * first, most - width * behind

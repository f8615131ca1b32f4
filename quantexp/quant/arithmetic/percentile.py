"""The range that keeps a given share of the values, read from their histogram."""

from __future__ import annotations

from torch import Tensor


def percentile_range(histogram: Tensor, least: Tensor, most: Tensor, percentile: float) -> tuple[Tensor, Tensor]:
    """Return the bounds that leave out (100 - percentile) / 2 per cent of the values on either side.

    Args:
        histogram: Counts of equally wide bins from `least` to `most`, shape (bins,).
        least: Of all values, shape ().
        most: Of all values, shape ().
        percentile: Of the values within the bounds, in per cent; 100 gives `least` and `most`.

    A bound lies at the edge of a bin, so that up to one bin more on each side is kept.
    """
    seen = histogram.double().cumsum(0) / histogram.double().sum()
    tail = (100.0 - percentile) / 200.0
    width = (most - least) / len(histogram)
    first = int((seen <= tail).sum())  # bins that lie in the lower tail as a whole
    behind = int((seen >= 1.0 - tail - 1e-12).sum()) - 1  # bins behind the one in which the upper tail begins
    return least + width * first, most - width * behind

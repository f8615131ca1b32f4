"""The figures that are drawn from samples: quantiles, intervals, paired ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats
from torch import Tensor

from quantexp.report.results import Accuracy, Latency, Speedup

CONFIDENCE = 0.95


def accuracy(predicted: Tensor, labels: Tensor) -> Accuracy:
    """Return the share of right predictions with its Wilson interval (Wilson 1927)."""
    correct, total = int((predicted == labels).sum()), len(labels)
    interval = stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return Accuracy(correct / total, float(interval.low), float(interval.high), correct, total)


def flips(float_predicted: Tensor, predicted: Tensor, labels: Tensor) -> tuple[int, int]:
    """Count the examples that only the second model gets right, and those that only the first does."""
    float_right, right = float_predicted == labels, predicted == labels
    return int((right & ~float_right).sum()), int((float_right & ~right).sum())


def latency(batch_size: int, samples_ms: Sequence[float], calls_per_sample: int, placements: int) -> Latency:
    """Summarise the samples of one model at one batch size."""
    values = np.asarray(samples_ms)
    p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9))
    return Latency(
        batch_size=batch_size,
        samples_ms=tuple(values.tolist()),
        calls_per_sample=calls_per_sample,
        placements=placements,
        median_ms=float(median),
        mean_ms=float(values.mean()),
        std_ms=float(values.std(ddof=1)),
        p10_ms=float(p10),
        p90_ms=float(p90),
    )


def speedup(float_side: Latency, quantized: Latency) -> Speedup:
    """Return how many times faster the quantized model is.

    With several placements: each gives the median of its log-ratios, round by round; the estimate is
    their mean, the interval Student's t over them, both taken back from the logarithm. With one
    placement no interval can be known, and the ratio is that of the means.
    """
    if float_side.placements < 2:
        return Speedup(float_side.batch_size, float_side.mean_ms / quantized.mean_ms, None, None)
    ratios = np.log(np.asarray(float_side.samples_ms) / np.asarray(quantized.samples_ms))
    per_placement = np.median(ratios.reshape(float_side.placements, -1), axis=1)
    centre = float(per_placement.mean())
    error = float(per_placement.std(ddof=1)) / math.sqrt(len(per_placement))
    reach = error * float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(per_placement) - 1))
    return Speedup(float_side.batch_size, math.exp(centre), math.exp(centre - reach), math.exp(centre + reach))

"""Summaries of latencies, and speedups with their confidence interval over placements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # scipy.stats would take ten times as long to import

from quantexp.results import Energy, Latency, Resources, Speedup
from quantexp.statistics.proportions import CONFIDENCE

P99_SAMPLES = 1000  # so that ten of them lie above the 99th percentile


def latency(
    batch_size: int,
    samples_ms: Sequence[float],
    calls_per_sample: int,
    placements: int,
    first_call_ms: float,
    resources: Resources | None = None,
    energy: Energy | None = None,
) -> Latency:
    """Summarise the samples of one model at one batch size; what the calls used is passed through."""
    values = np.asarray(samples_ms)
    p10, median, p90, p99 = np.quantile(values, (0.1, 0.5, 0.9, 0.99))
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
        p99_ms=float(p99) if len(values) >= P99_SAMPLES else None,
        first_call_ms=first_call_ms,
        resources=resources,
        energy=energy,
    )


def speedup(reference: Latency, other: Latency, margin: float) -> Speedup:
    """Return the speedup of `other` over `reference`.

    Each placement gives the mean of the middle half of its log-ratios, with one log-ratio for each pair of rounds. The
    estimate is the mean over the placements, the interval is Student's t interval, and both are transformed back with
    exp. With one placement there is no interval, and the speedup is the ratio of the means.
    """
    if reference.placements < 2:
        return Speedup(reference.batch_size, reference.mean_ms / other.mean_ms, None, None, margin)
    shape = reference.placements, -1
    ratios = _log_ratios(np.reshape(reference.samples_ms, shape), np.reshape(other.samples_ms, shape))
    centre, width = float(ratios.mean()), half_width(ratios)
    low, high = math.exp(centre - width), math.exp(centre + width)
    return Speedup(reference.batch_size, math.exp(centre), low, high, margin, tuple(np.exp(ratios).tolist()))


def uncertainty(latencies: Sequence[Latency]) -> float:
    """Return half the width of the widest interval, as a share; the latencies have several placements.

    The intervals are those of the speedups over the first network. If there is only one network, it is that of its
    latency.
    """
    first, *others = (np.reshape(one.samples_ms, (one.placements, -1)) for one in latencies)
    widths = [half_width(_log_ratios(first, other)) for other in others or [np.ones_like(first)]]
    return math.expm1(max(widths))


def log_interval(reference: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the centre of the interval of the log-ratio and half its width; the samples are by placement and round."""
    ratios = _log_ratios(np.asarray(reference), np.asarray(other))
    return float(ratios.mean()), half_width(ratios)


def _log_ratios(reference: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-ratio of each placement, from samples of shape (placements, rounds): the mean of the middle half.

    Two rounds, in which the models run in opposite orders, give one log-ratio: the order changes what a model finds
    in the caches, so single rounds would be biased in one direction or the other.
    """
    by_round = np.log(reference) - np.log(other)
    placements, rounds = by_round.shape
    by_pair = by_round.reshape(placements, -1, 1 if rounds % 2 else 2).mean(axis=2)
    pairs = by_pair.shape[1]
    cut = max(pairs // 4, (min(pairs, 3) - 1) // 2)  # of three, the median
    ratios: NDArray[np.float64] = np.sort(by_pair, axis=1)[:, cut : pairs - cut].mean(axis=1)
    return ratios


def half_width(values: NDArray[np.float64]) -> float:
    """Return half the width of Student's t interval of the mean."""
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return error * float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2))

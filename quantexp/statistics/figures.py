"""The figures that are drawn from samples: quantiles, intervals, paired ratios, paired predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn.functional import cross_entropy

from quantexp.results import Accuracy, Latency, Speedup

CONFIDENCE = 0.95
POWER = 0.8
P99_SAMPLES = 1000  # ten of them lie beyond the 99th percentile


def accuracy(predicted: Tensor, labels: Tensor, classes: int) -> Accuracy:
    """Return the share of right predictions with its Wilson interval (Wilson 1927)."""
    correct, total = int((predicted == labels).sum()), len(labels)
    interval = stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    counts = (labels * classes + predicted).bincount(minlength=classes * classes).view(classes, classes)
    confusion = tuple(tuple(row) for row in counts.tolist())
    return Accuracy(correct / total, float(interval.low), float(interval.high), correct, total, confusion)


def loss(logits: Tensor, labels: Tensor) -> float | None:
    """Return the mean cross entropy, None where it is no finite number."""
    return finite(cross_entropy(logits.double(), labels).item())


def sqnr_db(reference: Tensor, quantized: Tensor) -> float | None:
    """Return the signal-to-quantization-noise ratio in dB: energy of `reference` over that of the difference.

    It is None where it is no finite number: without any difference there is no noise.
    """
    return decibels(*energies(reference, quantized))


def energies(reference: Tensor, quantized: Tensor) -> tuple[float, float]:
    """Return the energy of `reference` and that of the difference; those of batches add up to those of the whole."""
    signal = reference.double().square().sum().item()
    return signal, (reference.double() - quantized.double()).square().sum().item()


def decibels(signal: float, noise: float) -> float | None:
    """Return the ratio of two energies in dB, None where it is no finite number."""
    return finite(10 * math.log10(signal / noise)) if signal > 0 and 0 < noise < math.inf else None


def flips(float_predicted: Tensor, predicted: Tensor, labels: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return which examples only the second model gets right, and which only the first does, by their index."""
    float_right, right = float_predicted == labels, predicted == labels
    gained, lost = ((one & ~other).nonzero().flatten() for one, other in ((right, float_right), (float_right, right)))
    return tuple(gained.tolist()), tuple(lost.tolist())


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of the exact McNemar test (McNemar 1947): is a flip as likely either way?

    Given how many examples flipped, the number of those lost is binomial with probability 1/2; without
    a flip there is nothing to tell, and the value is 1.
    """
    return float(stats.binomtest(lost, gained + lost).pvalue) if gained + lost else 1.0


def detectable_drop(gained: int, lost: int, total: int) -> float:
    """Return the least true drop in accuracy that the exact McNemar test tells from none with 80 % power.

    Of `total` examples a share flips, as large as was seen or, if that is less than the drop, as large as
    the drop itself; the power is that of the exact test at the 5 % level, over the binomial number of flips
    (the unconditional power of Miettinen 1968). Is no drop large enough, it is 1.
    """
    flipped = gained + lost
    low, high = 0, total  # power(low) is too small
    if mcnemar_power(total, max(flipped, total), total) < POWER:
        return 1.0
    while high - low > 1:
        middle = (low + high) // 2
        if mcnemar_power(middle, max(flipped, middle), total) >= POWER:
            high = middle
        else:
            low = middle
    return high / total


def mcnemar_power(net: int, flipped: int, total: int) -> float:
    """Return the probability that the exact test at the 5 % level rejects, with `net` more lost than gained.

    `flipped` of `total` examples flip on average, (flipped + net) / 2 of them to the worse.
    """
    count = stats.binom(total, flipped / total)
    flips_seen = np.arange(int(count.ppf(1e-6)), int(count.ppf(1 - 1e-6)) + 1)
    reject_at = _largest_rejected(flips_seen)
    worse = (flipped + net) / (2 * flipped)
    rejected = stats.binom.cdf(reject_at, flips_seen, worse) + stats.binom.cdf(reject_at, flips_seen, 1 - worse)
    return float((count.pmf(flips_seen) * rejected).sum())


def _largest_rejected(flips_seen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the largest count in the rarer direction that rejects at the 5 % level, -1 where none does."""
    level = (1 - CONFIDENCE) / 2
    candidate = stats.binom.ppf(level, flips_seen, 0.5)
    largest: NDArray[np.float64] = np.where(
        stats.binom.cdf(candidate, flips_seen, 0.5) <= level, candidate, candidate - 1
    )
    return largest


def latency(
    batch_size: int, samples_ms: Sequence[float], calls_per_sample: int, placements: int, first_call_ms: float
) -> Latency:
    """Summarise the samples of one model at one batch size."""
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
    )


def speedup(reference: Latency, other: Latency, margin: float) -> Speedup:
    """Return how many times faster `other` is.

    With several placements: each gives the median of its log-ratios, a pair of rounds giving one; the
    estimate is their mean, the interval Student's t over them, both taken back from the logarithm. With
    one placement no interval can be known, and the ratio is that of the means.
    """
    if reference.placements < 2:
        return Speedup(reference.batch_size, reference.mean_ms / other.mean_ms, None, None, margin)
    shape = reference.placements, -1
    ratios = _log_ratios(np.reshape(reference.samples_ms, shape), np.reshape(other.samples_ms, shape))
    centre, reach = float(ratios.mean()), _reach(ratios)
    low, high = math.exp(centre - reach), math.exp(centre + reach)
    return Speedup(reference.batch_size, math.exp(centre), low, high, margin, tuple(np.exp(ratios).tolist()))


def half_width(reference: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Return half the width of the interval of the log-ratio, from samples by placement and round."""
    return _reach(_log_ratios(np.asarray(reference), np.asarray(other)))


def _log_ratios(reference: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median log-ratio of each placement, from samples of shape (placements, rounds).

    Two rounds, in which the models go in opposite orders, give one: who goes first finds other caches,
    and half of the rounds would lean one way, half the other.
    """
    by_round = np.log(reference) - np.log(other)
    placements, rounds = by_round.shape
    by_pair = by_round.reshape(placements, -1, 1 if rounds % 2 else 2).mean(axis=2)
    ratios: NDArray[np.float64] = np.median(by_pair, axis=1)
    return ratios


def finite(value: float) -> float | None:
    """Return the value, None where it is infinite or no number."""
    return value if math.isfinite(value) else None


def _reach(ratios: NDArray[np.float64]) -> float:
    error = float(ratios.std(ddof=1)) / math.sqrt(len(ratios))
    return error * float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(ratios) - 1))

"""Latencies summarised, and ratios of them with their interval over placements."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import chain
from statistics import mean, median, stdev

import pytest
from scipy import stats

from quantexp.results import Latency, Speedup
from quantexp.statistics.timing import latency, log_interval, speedup


def timed(samples_ms: Sequence[float], placements: int = 1, *, batch_size: int = 1, calls: int = 1) -> Latency:
    return latency(batch_size, samples_ms, calls, placements, 9.0)


# Latency


def test_a_latency_summarises_its_samples() -> None:
    samples = [5.0, 1.0, 4.0, 2.0, 3.0, 11.0, 7.0, 6.0, 9.0, 8.0, 10.0]  # 1 to 11
    found = latency(64, samples, 13, 1, 250.0)
    assert found.samples_ms == tuple(samples), "every sample, in the order it was taken"
    assert (found.batch_size, found.calls_per_sample, found.placements) == (64, 13, 1)
    assert found.median_ms == median(samples) == 6.0
    assert found.mean_ms == mean(samples) == 6.0
    assert found.std_ms == pytest.approx(stdev(samples))
    assert found.std_ms == pytest.approx(math.sqrt(11.0))  # n (n + 1) / 12
    assert found.p10_ms == pytest.approx(2.0)  # of eleven, the tenth lies on the second
    assert found.p90_ms == pytest.approx(10.0)
    assert found.first_call_ms == 250.0


def test_between_two_samples_a_quantile_is_interpolated() -> None:
    found = timed([1.0, 2.0])
    assert (found.p10_ms, found.median_ms, found.p90_ms) == pytest.approx((1.1, 1.5, 1.9))


def test_throughput_is_examples_per_second_at_the_median() -> None:
    assert timed([2.0, 2.0, 50.0], batch_size=64).throughput_per_s == pytest.approx(64 / 0.002)


def test_the_ninety_ninth_percentile_is_known_from_a_thousand_samples_on() -> None:
    samples = [float(value) for value in range(1, 1002)]
    assert timed(samples[:999]).p99_ms is None
    assert timed(samples[:1000]).p99_ms == pytest.approx(1 + 0.99 * 999)
    assert timed(samples).p99_ms == 991.0  # of 1,001, a hundredth of the 1,000 steps lies above


# Speedup


def pair(float_ms: Sequence[float], quantized_ms: Sequence[float], placements: int) -> Speedup:
    return speedup(timed(float_ms, placements, batch_size=8), timed(quantized_ms, placements, batch_size=8), 0.01)


def test_twice_as_fast_in_every_round_is_a_speedup_of_two_with_no_width() -> None:
    quantized = [1.0, 1.5, 0.7, 30.0, 1.1, 1.2]  # the machine may be slow now and then, for both
    found = pair([2 * value for value in quantized], quantized, 3)
    assert found.batch_size == 8
    assert (found.low, found.ratio, found.high) == pytest.approx((2.0, 2.0, 2.0), rel=1e-12)


def test_the_interval_is_students_over_the_placements() -> None:
    ratios = [1.8, 2.1, 2.0, 2.4]  # one a placement, the same in each of its four rounds
    quantized = [1.0, 3.0, 2.0, 5.0] * 4
    float_ms = [ratio * value for ratio, value in zip([r for r in ratios for _ in range(4)], quantized, strict=True)]
    found = pair(float_ms, quantized, 4)
    logs = [math.log(ratio) for ratio in ratios]
    reach = stats.t.ppf(0.975, df=3) * stdev(logs) / math.sqrt(4)
    assert found.ratio == pytest.approx(math.prod(ratios) ** (1 / 4), rel=1e-12)  # the geometric mean
    assert found.low == pytest.approx(math.exp(mean(logs) - reach), rel=1e-12)
    assert found.high == pytest.approx(math.exp(mean(logs) + reach), rel=1e-12)


def test_a_pair_of_rounds_that_was_disturbed_does_not_count() -> None:
    slow_once, fast_once = [2.0, 2.0, 2.0, 2.0, 900.0, 900.0], [3.0, 3.0, 0.003, 3.0, 3.0, 3.0]
    found = pair([*slow_once, *fast_once], [1.0] * 12, 2)
    assert found.ratio == pytest.approx(math.sqrt(2.0 * 3.0), rel=1e-12)


def test_a_placement_counts_with_the_mean_of_the_middle_half_of_its_pairs_of_rounds() -> None:
    logs = [-9.0, 0.1, 0.4, 0.9, 1.0, 7.0, 9.0, 0.0]  # in order -9, 0, 0.1, 0.4, 0.9, 1, 7, 9
    rounds = [math.exp(log) for log in logs for _ in range(2)]
    found = pair(rounds * 2, [1.0] * 32, 2)
    assert math.log(found.ratio) == pytest.approx((0.1 + 0.4 + 0.9 + 1.0) / 4, rel=1e-12)


def test_who_goes_first_does_not_matter_as_the_next_round_turns_the_order_about() -> None:
    late = 1.3  # times as long for the one that comes later; there are as many rounds one way as the other
    float_ms = [2.0, 2.0 * late, 2.0, 2.0 * late, 2.0, 2.0 * late] * 2
    quantized_ms = [1.0 * late, 1.0, 1.0 * late, 1.0, 1.0 * late, 1.0] * 2
    found = pair(float_ms, quantized_ms, 2)
    assert (found.low, found.ratio, found.high) == pytest.approx((2.0, 2.0, 2.0), rel=1e-12)


def test_the_speedup_of_the_inverse_comparison_is_the_inverse() -> None:
    float_ms, quantized_ms = [2.0, 2.2, 1.9, 2.4], [1.0, 1.2, 1.1, 0.9]
    there, back = pair(float_ms, quantized_ms, 2), pair(quantized_ms, float_ms, 2)
    assert None not in (there.low, there.high, back.low, back.high)
    assert there.ratio * back.ratio == pytest.approx(1.0, rel=1e-12)
    assert there.low * back.high == pytest.approx(1.0, rel=1e-12)  # type: ignore[operator]


def test_one_placement_gives_the_ratio_of_the_means_and_no_interval() -> None:
    found = pair([4.0, 6.0, 5.0], [1.0, 2.0, 3.0], 1)
    assert found == Speedup(8, 5.0 / 2.0, None, None, 0.01, ())


def test_a_speedup_keeps_its_margin_and_the_ratio_of_each_placement() -> None:
    found = speedup(timed([2.0, 2.0, 3.0, 3.0], 2), timed([1.0] * 4, 2), 0.03)
    assert found.margin == 0.03
    assert found.per_placement == pytest.approx((2.0, 3.0), rel=1e-12)
    assert math.prod(found.per_placement) ** (1 / 2) == pytest.approx(found.ratio, rel=1e-12)


def test_the_interval_that_ends_a_measurement_is_the_one_that_is_reported() -> None:
    chance = random.Random(0)
    for placements, rounds in ((2, 2), (10, 4), (7, 6)):
        float_ms = [[chance.uniform(1.8, 2.2) for _ in range(rounds)] for _ in range(placements)]
        quantized_ms = [[chance.uniform(0.9, 1.1) for _ in range(rounds)] for _ in range(placements)]
        found = pair([*chain(*float_ms)], [*chain(*quantized_ms)], placements)
        assert found.low is not None
        assert found.high is not None
        centre, reach = log_interval(float_ms, quantized_ms)
        assert centre == pytest.approx(math.log(found.ratio), rel=1e-9, abs=1e-12)
        assert reach == pytest.approx(math.log(found.high / found.low) / 2, rel=1e-9)
        assert reach == pytest.approx(math.log(found.high / found.ratio), rel=1e-9)

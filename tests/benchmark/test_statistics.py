from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median, stdev

import pytest
import torch
from scipy import stats

from quantexp.benchmark.statistics import accuracy, flips, latency, speedup
from quantexp.report.results import Speedup

Z = 1.959963984540054  # 97.5 % of a normal distribution lies below


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the interval by its closed form (Wilson 1927)."""
    share = correct / total
    centre = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    reach = Z / (1 + Z**2 / total) * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    return centre - reach, centre + reach


def answers(correct: int, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return predictions of which `correct` are right, and the labels."""
    labels = torch.arange(total) % 2
    wrong = torch.arange(total) >= correct
    return torch.where(wrong, 1 - labels, labels), labels


# Accuracy


def test_eighty_per_cent_on_the_test_split_of_sst2_is_known_to_two_point_seven_points() -> None:
    found = accuracy(*answers(698, 872))
    assert (found.correct, found.total) == (698, 872)
    assert found.value == 698 / 872
    assert (found.low, found.high) == pytest.approx(wilson(698, 872), rel=1e-12)
    assert found.value == pytest.approx(0.80, abs=0.001)
    assert (found.high - found.low) / 2 == pytest.approx(0.027, abs=0.0005)


@pytest.mark.parametrize(("correct", "total"), [(1, 2), (7, 10), (360, 361), (9_812, 10_000)])
def test_the_interval_of_an_accuracy_is_wilsons(correct: int, total: int) -> None:
    found = accuracy(*answers(correct, total))
    assert (found.low, found.high) == pytest.approx(wilson(correct, total), rel=1e-12)
    assert found.low < found.value < found.high


def test_at_the_ends_the_interval_stays_within_zero_and_one() -> None:
    none, all_ = accuracy(*answers(0, 50)), accuracy(*answers(50, 50))
    assert (none.value, none.low) == (0.0, 0.0)
    assert (all_.value, all_.high) == (1.0, 1.0)
    # At the ends the closed form shrinks to total / (total + Z²).
    assert all_.low == pytest.approx(50 / (50 + Z**2))
    assert none.high == pytest.approx(Z**2 / (50 + Z**2))


# Flips


def test_flips_count_the_examples_that_only_one_of_the_models_gets_right() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6])
    float_predicted = torch.tensor([0, 1, 2, 9, 9, 9, 9])
    predicted = torch.tensor([0, 9, 9, 3, 4, 5, 8])  # both wrong at the end, and not alike
    assert flips(float_predicted, predicted, labels) == (3, 2)
    assert flips(predicted, float_predicted, labels) == (2, 3)


def test_equal_predictions_have_no_flips() -> None:
    predicted, labels = answers(5, 9)
    assert flips(predicted, predicted, labels) == (0, 0)


def test_flips_explain_the_difference_of_the_accuracies() -> None:
    drawn = torch.Generator().manual_seed(0)
    labels, one, other = (torch.randint(0, 3, (200,), generator=drawn) for _ in range(3))
    gained, lost = flips(one, other, labels)
    assert accuracy(other, labels).correct - accuracy(one, labels).correct == gained - lost
    assert gained > 0
    assert lost > 0


# Latency


def test_a_latency_summarises_its_samples() -> None:
    samples = [5.0, 1.0, 4.0, 2.0, 3.0, 11.0, 7.0, 6.0, 9.0, 8.0, 10.0]  # 1 to 11
    found = latency(64, samples, 13, 1)
    assert found.samples_ms == tuple(samples), "every sample, in the order it was taken"
    assert (found.batch_size, found.calls_per_sample, found.placements) == (64, 13, 1)
    assert found.median_ms == median(samples) == 6.0
    assert found.mean_ms == mean(samples) == 6.0
    assert found.std_ms == pytest.approx(stdev(samples))
    assert found.std_ms == pytest.approx(math.sqrt(11.0))  # n (n + 1) / 12
    assert found.p10_ms == pytest.approx(2.0)  # of eleven, the tenth lies on the second
    assert found.p90_ms == pytest.approx(10.0)


def test_between_two_samples_a_quantile_is_interpolated() -> None:
    found = latency(1, [1.0, 2.0], 1, 1)
    assert (found.p10_ms, found.median_ms, found.p90_ms) == pytest.approx((1.1, 1.5, 1.9))


def test_throughput_is_examples_per_second_at_the_median() -> None:
    assert latency(64, [2.0, 2.0, 50.0], 1, 1).throughput_per_s == pytest.approx(64 / 0.002)


# Speedup


def pair(float_ms: Sequence[float], quantized_ms: Sequence[float], placements: int) -> Speedup:
    return speedup(latency(8, float_ms, 1, placements), latency(8, quantized_ms, 1, placements))


def test_twice_as_fast_in_every_round_is_a_speedup_of_two_with_no_width() -> None:
    quantized = [1.0, 1.5, 0.7, 30.0, 1.1, 1.2]  # the machine may be slow now and then, for both
    found = pair([2 * value for value in quantized], quantized, 3)
    assert found.batch_size == 8
    assert found.low == found.high == pytest.approx(2.0, rel=1e-12)
    assert found.ratio == pytest.approx(2.0, rel=1e-12)


def test_the_interval_is_students_over_the_placements() -> None:
    ratios = [1.8, 2.1, 2.0, 2.4]  # one a placement, the same in each of its three rounds
    quantized = [1.0, 3.0, 2.0] * 4
    float_ms = [ratio * value for ratio, value in zip([r for r in ratios for _ in range(3)], quantized, strict=True)]
    found = pair(float_ms, quantized, 4)
    logs = [math.log(ratio) for ratio in ratios]
    reach = stats.t.ppf(0.975, df=3) * stdev(logs) / math.sqrt(4)
    assert found.ratio == pytest.approx(math.prod(ratios) ** (1 / 4), rel=1e-12)  # the geometric mean
    assert found.low == pytest.approx(math.exp(mean(logs) - reach), rel=1e-12)
    assert found.high == pytest.approx(math.exp(mean(logs) + reach), rel=1e-12)


def test_a_placement_counts_with_the_median_of_its_rounds() -> None:
    found = pair([2.0, 2.0, 900.0, 3.0, 3.0, 0.003], [1.0] * 6, 2)
    assert found.ratio == pytest.approx(math.sqrt(2.0 * 3.0), rel=1e-12)


def test_the_speedup_of_the_inverse_comparison_is_the_inverse() -> None:
    float_ms, quantized_ms = [2.0, 2.2, 1.9, 2.4], [1.0, 1.2, 1.1, 0.9]
    there, back = pair(float_ms, quantized_ms, 2), pair(quantized_ms, float_ms, 2)
    assert None not in (there.low, there.high, back.low, back.high)
    assert there.ratio * back.ratio == pytest.approx(1.0, rel=1e-12)
    assert there.low * back.high == pytest.approx(1.0, rel=1e-12)  # type: ignore[operator]


def test_one_placement_gives_the_ratio_of_the_means_and_no_interval() -> None:
    found = pair([4.0, 6.0, 5.0], [1.0, 2.0, 3.0], 1)
    assert found == Speedup(8, 5.0 / 2.0, None, None)

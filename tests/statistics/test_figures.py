from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import chain, pairwise
from statistics import mean, median, stdev

import numpy as np
import pytest
import torch
from quantexp.statistics.FIXME_accuracy import accuracy
from quantexp.statistics.FIXME_loss import loss
from scipy import stats

from quantexp.results import Accuracy, Latency, Speedup
from quantexp.statistics.paired import detectable_drop, flips, mcnemar, mcnemar_power
from quantexp.statistics.sqnr import sqnr_db
from quantexp.statistics.timing import half_width, latency, speedup

Z = 1.959963984540054  # 97.5 % of a normal distribution lies below


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the interval by its closed form (Wilson 1927)."""
    share = correct / total
    centre = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    reach = Z / (1 + Z**2 / total) * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    return centre - reach, centre + reach


def answers(correct: int, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return predictions of two classes of which `correct` are right, and the labels."""
    labels = torch.arange(total) % 2
    wrong = torch.arange(total) >= correct
    return torch.where(wrong, 1 - labels, labels), labels


def right(correct: int, total: int) -> Accuracy:
    """The accuracy of a model that is right on `correct` of `total` examples of two classes."""
    return accuracy(*answers(correct, total), 2)


def timed(samples_ms: Sequence[float], placements: int = 1, *, batch_size: int = 1, calls: int = 1) -> Latency:
    return latency(batch_size, samples_ms, calls, placements, 9.0)


def p_value(gained: int, lost: int) -> float:
    """Return the two-sided p-value of the exact test by counting: how many of the ways to flip are as one-sided."""
    flipped = gained + lost
    tail = sum(math.comb(flipped, rarer) for rarer in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**flipped)


def power(net: int, flipped: int, total: int) -> float:
    """Return the probability that the exact test rejects, summed over every way in which the examples can fall."""
    share, worse = flipped / total, (flipped + net) / (2 * flipped)
    rejected = 0.0
    for seen in range(total + 1):
        there = math.comb(total, seen) * share**seen * (1 - share) ** (total - seen)
        for lost in range(seen + 1):
            if p_value(seen - lost, lost) < 0.05:
                rejected += there * math.comb(seen, lost) * worse**lost * (1 - worse) ** (seen - lost)
    return rejected


def least_drop(flipped: int, total: int) -> float:
    """Return the least drop that is told from none with 80 % power, by trying all of them; 1 if there is none."""
    enough = (net for net in range(1, total + 1) if power(net, max(flipped, net), total) >= 0.8)
    return next(enough, total) / total


# Accuracy


def test_eighty_per_cent_on_the_test_split_of_sst2_is_known_to_two_point_seven_points() -> None:
    found = right(698, 872)
    assert (found.correct, found.total) == (698, 872)
    assert found.value == 698 / 872
    assert (found.low, found.high) == pytest.approx(wilson(698, 872), rel=1e-12)
    assert found.value == pytest.approx(0.80, abs=0.001)
    assert (found.high - found.low) / 2 == pytest.approx(0.027, abs=0.0005)


@pytest.mark.parametrize(("correct", "total"), [(1, 2), (7, 10), (360, 361), (9_812, 10_000)])
def test_the_interval_of_an_accuracy_is_wilsons(correct: int, total: int) -> None:
    found = right(correct, total)
    assert (found.low, found.high) == pytest.approx(wilson(correct, total), rel=1e-12)
    assert found.low < found.value < found.high


def test_at_the_ends_the_interval_stays_within_zero_and_one() -> None:
    none, all_ = right(0, 50), right(50, 50)
    assert (none.value, none.low) == (0.0, 0.0)
    assert (all_.value, all_.high) == (1.0, 1.0)
    # At the ends the closed form shrinks to total / (total + Z²).
    assert all_.low == pytest.approx(50 / (50 + Z**2))
    assert none.high == pytest.approx(Z**2 / (50 + Z**2))


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_one_that_newcombe_published(correct: int, total: int, low: float, high: float) -> None:
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I.
    found = right(correct, total)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_the_interval_holds_the_shares_that_a_score_test_does_not_reject() -> None:
    chance = random.Random(0)
    for _ in range(50):
        total = chance.randint(1, 5000)
        correct = chance.randint(0, total)
        found = right(correct, total)
        assert (found.low, found.high) == pytest.approx(wilson(correct, total), rel=1e-9, abs=1e-12)
        for end in {found.low, found.high} - {0.0, 1.0}:
            score = (correct / total - end) / math.sqrt(end * (1 - end) / total)
            assert abs(score) == pytest.approx(Z, rel=1e-6)


def test_the_confusion_counts_each_label_with_each_prediction() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 2, 1, 0, 1])
    found = accuracy(predicted, labels, 4)
    assert found.confusion == ((2, 0, 1, 0), (1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0))
    assert found.correct == 3
    assert found.per_class == (2 / 3, 1 / 2, 0.0, None), "of the last class there is no example"


def test_the_confusion_counts_every_example_once_and_its_diagonal_those_that_are_right() -> None:
    drawn = torch.Generator().manual_seed(1)
    labels, predicted = (torch.randint(0, 10, (1000,), generator=drawn) for _ in range(2))
    found = accuracy(predicted, labels, 10)
    assert sum(map(sum, found.confusion)) == found.total == 1000
    assert sum(row[label] for label, row in enumerate(found.confusion)) == found.correct
    assert [sum(row) for row in found.confusion] == labels.bincount(minlength=10).tolist()
    assert [sum(column) for column in zip(*found.confusion, strict=True)] == predicted.bincount(minlength=10).tolist()


# Flips


def test_flips_are_the_examples_that_only_one_of_the_models_gets_right() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6])
    float_predicted = torch.tensor([0, 1, 2, 9, 9, 9, 9])
    predicted = torch.tensor([0, 9, 9, 3, 4, 5, 8])  # both wrong at the end, and not alike
    assert flips(float_predicted, predicted, labels) == ((3, 4, 5), (1, 2))
    assert flips(predicted, float_predicted, labels) == ((1, 2), (3, 4, 5))


def test_equal_predictions_have_no_flips() -> None:
    predicted, labels = answers(5, 9)
    assert flips(predicted, predicted, labels) == ((), ())


def test_flips_explain_the_difference_of_the_accuracies() -> None:
    drawn = torch.Generator().manual_seed(0)
    labels, one, other = (torch.randint(0, 3, (200,), generator=drawn) for _ in range(3))
    gained, lost = flips(one, other, labels)
    assert accuracy(other, labels, 3).correct - accuracy(one, labels, 3).correct == len(gained) - len(lost)
    assert gained
    assert lost


# Loss and noise of the logits


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_classes() -> None:
    assert loss(torch.zeros(5, 10), torch.arange(5)) == pytest.approx(math.log(10))
    assert loss(torch.full((5, 10), math.nan), torch.arange(5)) is None


def test_noise_of_a_tenth_of_the_signal_is_twenty_decibels_below_it() -> None:
    logits = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    assert sqnr_db(logits, 1.1 * logits) == pytest.approx(20, abs=1e-4)
    assert sqnr_db(logits, 1.2 * logits) == pytest.approx(20 - 20 * math.log10(2), abs=1e-4)  # twice the noise: 6 dB


def test_without_noise_there_is_no_ratio_nor_with_what_is_no_number() -> None:
    logits = torch.ones(2, 3)
    assert sqnr_db(logits, logits) is None
    assert sqnr_db(logits, logits / 0) is None


# The exact McNemar test


def test_the_p_value_is_that_of_the_approval_ratings() -> None:
    # Agresti, "Categorical Data Analysis": of 1,600 voters asked twice 794 and 570 stay with their answer, 150 and 86
    # change it. The book gives the squared score 17.36; the exact p-value is 3.716e-5.
    squared_score = (150 - 86) ** 2 / (150 + 86)
    assert squared_score == pytest.approx(17.36, abs=0.005)
    assert mcnemar(86, 150) == pytest.approx(3.716e-5, abs=5e-9)
    assert mcnemar(86, 150) == pytest.approx(p_value(86, 150), rel=1e-9)


def test_six_flips_to_one_side_can_be_told_from_chance_and_five_cannot() -> None:
    assert mcnemar(0, 5) == pytest.approx(2 / 2**5) == pytest.approx(0.0625)
    assert mcnemar(0, 6) == pytest.approx(2 / 2**6) == pytest.approx(0.03125)


def test_the_p_value_counts_the_ways_that_are_as_one_sided() -> None:
    chance = random.Random(0)
    cases = [(chance.randint(0, 60), chance.randint(0, 60)) for _ in range(100)]
    for gained, lost in cases:
        assert mcnemar(gained, lost) == pytest.approx(p_value(gained, lost), rel=1e-9)
        assert mcnemar(gained, lost) == pytest.approx(mcnemar(lost, gained), rel=1e-12)


@pytest.mark.parametrize("flipped", [0, 1, 7, 500])
def test_as_many_flips_either_way_tell_nothing(flipped: int) -> None:
    assert mcnemar(flipped, flipped) == pytest.approx(1.0)


# The least drop that can be told from none


@pytest.mark.parametrize("total", [6, 9, 20, 45])
def test_the_power_is_the_sum_over_every_way_in_which_the_examples_can_fall(total: int) -> None:
    for flipped in {1, 2, total // 2, total - 1, total}:
        for net in {0, 1, flipped // 2, flipped}:
            assert mcnemar_power(net, flipped, total) == pytest.approx(power(net, flipped, total), abs=1e-5)


def test_the_power_is_the_share_of_drawn_test_sets_on_which_the_test_rejects() -> None:
    net, flipped, total, draws = 12, 40, 872, 20_000
    drawn = np.random.default_rng(0).multinomial(
        total, [(flipped + net) / 2 / total, (flipped - net) / 2 / total, 1 - flipped / total], draws
    )
    cases, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    told = sum(
        int(count) for (lost, gained), count in zip(cases.tolist(), counts, strict=True) if p_value(gained, lost) < 0.05
    )
    share = mcnemar_power(net, flipped, total)
    assert told / draws == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / draws))


def test_where_nothing_is_lost_the_test_rejects_in_less_than_five_of_a_hundred_test_sets() -> None:
    for flipped in (1, 6, 40, 236):
        assert mcnemar_power(0, flipped, 1600) < 0.05


@pytest.mark.parametrize(("flipped", "total"), [(0, 6), (0, 10), (3, 10), (10, 10), (0, 40), (5, 40), (12, 40)])
def test_the_detectable_drop_is_the_least_of_all_drops_that_has_eighty_per_cent_power(flipped: int, total: int) -> None:
    for gained in {0, flipped // 2, flipped}:  # how many flip matters, not which way
        assert detectable_drop(gained, flipped - gained, total) == least_drop(flipped, total)


def test_where_hardly_anything_flips_eight_examples_are_needed_as_six_flips_must_come_about() -> None:
    # The flips of a drop of n examples are about Poisson with mean n: six or more come in 0.70 of the cases for a mean
    # of seven, in 0.81 for a mean of eight.
    assert 1 - stats.poisson.cdf(5, 7) < 0.8 < 1 - stats.poisson.cdf(5, 8)
    for total in (100, 872, 10_000):
        for flipped in (0, 1, 4):
            assert detectable_drop(0, flipped, total) == 8 / total


@pytest.mark.parametrize("total", [1, 5])
def test_of_five_examples_no_drop_can_be_told(total: int) -> None:
    assert mcnemar_power(total, total, total) == 0.0
    assert detectable_drop(0, 0, total) == 1.0


def test_the_more_examples_flip_the_larger_a_drop_must_be_to_be_told() -> None:
    drops = [detectable_drop(flipped // 2, flipped - flipped // 2, 872) for flipped in range(0, 400, 8)]
    assert all(less <= more for less, more in pairwise(drops))
    assert drops[-1] > 5 * drops[0]
    assert all(0 < drop <= 1 for drop in drops)


def test_the_more_examples_there_are_the_smaller_a_drop_can_be_told() -> None:
    drops = [detectable_drop(total // 200, total // 200, total) for total in (200, 1000, 5000, 25_000)]
    assert all(more > less for more, less in pairwise(drops))


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


def test_a_placement_counts_with_the_median_of_its_pairs_of_rounds() -> None:
    slow_once, fast_once = [2.0, 2.0, 2.0, 2.0, 900.0, 900.0], [3.0, 3.0, 0.003, 3.0, 3.0, 3.0]
    found = pair([*slow_once, *fast_once], [1.0] * 12, 2)
    assert found.ratio == pytest.approx(math.sqrt(2.0 * 3.0), rel=1e-12)


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


def test_half_the_width_that_ends_a_measurement_is_that_of_the_interval_that_is_reported() -> None:
    chance = random.Random(0)
    for placements, rounds in ((2, 2), (10, 4), (7, 6)):
        float_ms = [[chance.uniform(1.8, 2.2) for _ in range(rounds)] for _ in range(placements)]
        quantized_ms = [[chance.uniform(0.9, 1.1) for _ in range(rounds)] for _ in range(placements)]
        found = pair([*chain(*float_ms)], [*chain(*quantized_ms)], placements)
        assert found.low is not None
        assert found.high is not None
        reach = half_width(float_ms, quantized_ms)
        assert reach == pytest.approx(math.log(found.high / found.low) / 2, rel=1e-9)
        assert reach == pytest.approx(math.log(found.high / found.ratio), rel=1e-9)

"""Two networks on the same examples: flips, the exact McNemar test, and the drop that it can detect."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from quantexp.statistics.paired import detectable_drop, drop_interval, flips, mcnemar, mcnemar_power


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


# Flips


def test_flips_are_the_examples_that_only_one_of_the_models_gets_right() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6])
    float_predicted = torch.tensor([0, 1, 2, 9, 9, 9, 9])
    predicted = torch.tensor([0, 9, 9, 3, 4, 5, 8])  # both wrong at the end, and not alike
    assert flips(float_predicted, predicted, labels) == ((3, 4, 5), (1, 2))
    assert flips(predicted, float_predicted, labels) == ((1, 2), (3, 4, 5))


def test_equal_predictions_have_no_flips() -> None:
    labels = torch.arange(9) % 2
    predicted = torch.where(torch.arange(9) >= 5, 1 - labels, labels)
    assert flips(predicted, predicted, labels) == ((), ())


def test_flips_explain_the_difference_of_the_accuracies() -> None:
    drawn = torch.Generator().manual_seed(0)
    labels, one, other = (torch.randint(0, 3, (200,), generator=drawn) for _ in range(3))
    gained, lost = flips(one, other, labels)
    assert int((other == labels).sum()) - int((one == labels).sum()) == len(gained) - len(lost)
    assert gained
    assert lost


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


def test_the_interval_of_a_drop_ends_where_the_score_test_rejects() -> None:
    for gained, lost, total in ((2, 4, 1000), (0, 5, 872), (14, 1, 54), (40, 90, 300)):
        for end in drop_interval(gained, lost, total):
            # the share of gained examples that is most likely under this drop, on a grid
            shares = np.linspace(max(0.0, -end) + 1e-9, (1 - end) / 2 - 1e-9, 200_001)
            same = 1 - 2 * shares - end
            likelihood = gained * np.log(shares) + lost * np.log(shares + end) + (total - gained - lost) * np.log(same)
            share = shares[likelihood.argmax()]
            variance = total * (2 * share + end - end**2)
            score = (lost - gained - total * end) / np.sqrt(variance)
            assert abs(score) == pytest.approx(stats.norm.ppf(0.975), rel=1e-2)


def test_the_interval_of_a_drop_without_flips_has_the_width_of_its_examples() -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    low, high = drop_interval(0, 0, 1000)
    assert (low, high) == pytest.approx((-z2 / (1000 + z2), z2 / (1000 + z2)))
    assert drop_interval(0, 1000, 1000)[1] == 1
    assert drop_interval(1000, 0, 1000)[0] == -1


def test_the_interval_of_a_drop_mirrors_when_gains_and_losses_are_exchanged() -> None:
    low, high = drop_interval(3, 9, 500)
    assert drop_interval(9, 3, 500) == pytest.approx((-high, -low))


def test_the_interval_covers_the_true_drop_in_about_95_of_100_test_sets() -> None:
    generator = np.random.default_rng(0)
    draws = generator.multinomial(500, (0.02, 0.04, 0.94), size=2000)  # gained, lost, same: a drop of 0.02
    covered = sum(low <= 0.02 <= high for low, high in (drop_interval(int(g), int(b), 500) for g, b, _ in draws))
    assert 0.93 <= covered / len(draws) <= 0.975

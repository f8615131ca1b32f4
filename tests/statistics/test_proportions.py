"""The interval of a share."""

from __future__ import annotations

import math
import random

import pytest

from quantexp.statistics import proportions

Z = 1.959963984540054  # 97.5 % of a normal distribution lies below


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the interval by its closed form (Wilson 1927)."""
    share = correct / total
    centre = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    reach = Z / (1 + Z**2 / total) * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    return centre - reach, centre + reach


def test_eighty_per_cent_on_the_test_split_of_sst2_is_known_to_two_point_seven_points() -> None:
    low, high = proportions.wilson(698, 872)
    assert (low, high) == pytest.approx(wilson(698, 872), rel=1e-12)
    assert (high - low) / 2 == pytest.approx(0.027, abs=0.0005)


@pytest.mark.parametrize(("correct", "total"), [(1, 2), (7, 10), (360, 361), (9_812, 10_000)])
def test_the_interval_of_a_share_is_wilsons(correct: int, total: int) -> None:
    low, high = proportions.wilson(correct, total)
    assert (low, high) == pytest.approx(wilson(correct, total), rel=1e-12)
    assert low < correct / total < high


def test_at_the_ends_the_interval_stays_within_zero_and_one() -> None:
    none, all_ = proportions.wilson(0, 50), proportions.wilson(50, 50)
    assert (none[0], all_[1]) == (0.0, 1.0)
    # At the ends the closed form shrinks to total / (total + Z²).
    assert all_[0] == pytest.approx(50 / (50 + Z**2))
    assert none[1] == pytest.approx(Z**2 / (50 + Z**2))


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_one_that_newcombe_published(correct: int, total: int, low: float, high: float) -> None:
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I.
    assert tuple(round(end, 4) for end in proportions.wilson(correct, total)) == (low, high)


def test_the_interval_holds_the_shares_that_a_score_test_does_not_reject() -> None:
    chance = random.Random(0)
    for _ in range(50):
        total = chance.randint(1, 5000)
        correct = chance.randint(0, total)
        found = proportions.wilson(correct, total)
        assert found == pytest.approx(wilson(correct, total), rel=1e-9, abs=1e-12)
        for end in {*found} - {0.0, 1.0}:
            score = (correct / total - end) / math.sqrt(end * (1 - end) / total)
            assert abs(score) == pytest.approx(Z, rel=1e-6)

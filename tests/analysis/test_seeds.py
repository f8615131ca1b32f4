from __future__ import annotations

import math

import pytest

from quantexp.analysis.seeds import Spread, difference, paired, spread


def test_several_values_have_a_mean_and_the_deviation_of_the_sample() -> None:
    assert spread([1.0, 2.0, 6.0]) == Spread(3.0, pytest.approx(math.sqrt(7)), 3)  # (4 + 1 + 9) / 2


def test_a_single_value_has_no_deviation() -> None:
    assert spread([4.0]) == Spread(4.0, None, 1)


def test_the_interval_of_differences_is_students_over_their_number() -> None:
    found = difference([1.0, 2.0, 3.0])  # t(0.975, 2) = 4.3027, the error of the mean is 1 / sqrt(3)
    assert found is not None
    assert (found.mean, found.n) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), rel=1e-5)
    assert not found.significant


def test_equal_differences_are_significant() -> None:
    found = difference([0.5, 0.5])
    assert found is not None
    assert (found.low, found.high, found.significant) == (0.5, 0.5, True)


@pytest.mark.parametrize("values", [[], [1.0]], ids=["none", "one"])
def test_fewer_than_two_differences_have_no_interval(values: list[float]) -> None:
    assert difference(values) is None


def test_no_difference_in_any_seed_is_not_significant() -> None:
    found = difference([0.0, 0.0, 0.0])
    assert found is not None
    assert not found.significant


def test_differences_in_steps_are_known_no_better_than_rounding_allows() -> None:
    found = difference([1.0, 1.0], step=1.0)  # t(0.975, 1) = 12.706, the error of the mean is 1 / sqrt(6) / sqrt(2)
    assert found is not None
    reach = 12.7062 / math.sqrt(12)
    assert (found.low, found.high) == pytest.approx((1 - reach, 1 + reach), rel=1e-5)
    assert not found.significant
    assert difference([1.0, 3.0], step=1.0) == difference([1.0, 3.0])


def test_differences_are_paired_over_the_seeds_that_both_have() -> None:
    found = paired({0: 5.0, 1: 7.0, 2: 9.0}, {1: 6.0, 2: 6.0, 3: 0.0})
    assert found is not None
    assert (found.mean, found.n) == (2.0, 2)

from __future__ import annotations

import math

import pytest

from quantexp.results import Energy
from quantexp.statistics.energy import energy, energy_ratios
from tests.builders import latency

T_OF_2 = 4.302652729911275  # Student's t with 2 degrees of freedom, 97.5 %


def test_the_interval_of_an_energy_is_students_over_the_logarithms_of_the_placements() -> None:
    found = energy([1.0, math.e, math.e**2])
    width = T_OF_2 / math.sqrt(3)  # the logarithms 0, 1 and 2 have a deviation of 1
    assert found.joules == pytest.approx(math.e)
    assert (found.low_joules, found.high_joules) == pytest.approx((math.exp(1 - width), math.exp(1 + width)))
    assert found.joules_by_placement == (1.0, math.e, math.e**2)


def test_a_ratio_is_taken_in_each_placement_so_that_what_both_share_cancels() -> None:
    quantized = [0.5, 0.6, 0.9]
    reference = [2 * joules for joules in quantized]
    (ratio,) = energy_ratios(
        [latency(64, energy=energy(reference))], [latency(64, energy=energy(quantized))], margin=0.01
    )
    assert (ratio.batch_size, ratio.ratio, ratio.low, ratio.high) == pytest.approx((64, 2.0, 2.0, 2.0))
    assert ratio.per_placement == pytest.approx((2.0, 2.0, 2.0))
    assert ratio.word == "less"


@pytest.mark.parametrize(
    ("reference", "word"),
    [(0.5, "more"), (1.0, "no difference"), (2.0, "less")],
)
def test_the_word_says_what_the_quantized_network_uses(reference: float, word: str) -> None:
    first, second = energy([reference] * 3), energy([1.0] * 3)
    assert energy_ratios([latency(energy=first)], [latency(energy=second)], 0.01)[0].word == word


def test_a_wide_interval_decides_nothing() -> None:
    first, second = energy([0.5, 1.0, 2.0]), energy([1.0, 1.0, 1.0])
    assert energy_ratios([latency(energy=first)], [latency(energy=second)], 0.01)[0].word == "undecided"


def test_there_is_no_ratio_where_one_side_was_not_measured() -> None:
    known = Energy(1.0, 0.9, 1.1, (0.95, 1.05))
    assert energy_ratios([latency(1, energy=known), latency(64)], [latency(1), latency(64)], 0.01) == ()

from __future__ import annotations

import dataclasses
import math

import pytest

from quantexp.analysis.ratios import Ratio, between, over_float, over_seeds
from quantexp.analysis.variants import Variant, variants
from quantexp.results import Report, Speedup
from tests.builders import lone, method, speedup, sweep


def variant(*reports: Report) -> Variant:
    (one,) = variants(sweep(*reports))
    return one


def run(quant: str, ratio: float, *, seed: int = 0, half: float | None = 0.05) -> Report:
    """A run at batch 1 whose logarithmic interval has this half-width."""
    reach = math.exp(half) if half is not None else None
    bounds = (ratio / reach, ratio * reach) if reach else (None, None)
    return method(quant, speedups=[Speedup(1, ratio, *bounds, 0.01)], seed=seed)


@pytest.mark.parametrize(
    ("centre", "reach", "verdict"),
    [
        (0.1, 0.05, "faster"),
        (-0.1, 0.05, "slower"),
        (0.1, 0.095, "undecided"),
        (0.1, None, "no interval"),
    ],
    ids=["faster", "slower", "within the margin", "no interval"],
)
def test_the_verdict_is_faster_or_slower_only_beyond_the_margin(
    centre: float, reach: float | None, verdict: str
) -> None:
    assert Ratio(centre, reach, math.log(1.01)).verdict == verdict


def test_a_ratio_is_written_with_its_interval_if_it_has_one() -> None:
    assert str(Ratio(math.log(2), math.log(1.5), 0)) == "2.00x [1.33, 3.00]"
    assert str(Ratio(math.log(2), None, 0)) == "2.00x"


def test_one_seed_has_the_interval_of_its_run() -> None:
    ratio = over_float(variant(run("static", 2.0, half=0.05)), 1)
    assert ratio is not None
    assert (ratio.centre, ratio.reach, ratio.margin) == pytest.approx((math.log(2), 0.05, math.log(1.01)))


def test_several_seeds_have_students_interval_over_their_logarithms() -> None:
    ones = [run("static", math.exp(value), seed=seed) for seed, value in enumerate((1.0, 2.0, 3.0))]
    ratio = over_float(variant(*ones), 1)
    assert ratio is not None
    assert ratio.centre == pytest.approx(2)
    assert ratio.reach == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)


def test_a_batch_size_that_was_not_measured_has_no_ratio_and_nor_has_the_float_model() -> None:
    assert over_float(variant(run("static", 2.0)), 64) is None
    assert over_float(variant(lone()), 1) is None


def test_two_runs_of_one_seed_add_their_errors_in_squares() -> None:
    ratio = between(variant(run("static", 4.0, half=0.03)), variant(run("qat", 2.0, half=0.04)), 1)
    assert ratio is not None
    assert (ratio.centre, ratio.reach) == pytest.approx((math.log(2), 0.05))
    assert ratio.significant


def test_without_intervals_no_difference_between_two_methods_is_significant() -> None:
    ratio = between(variant(run("static", 4.0, half=None)), variant(run("qat", 2.0)), 1)
    assert ratio is not None
    assert (ratio.reach, ratio.significant) == (None, False)


def test_over_seeds_two_methods_are_compared_pair_by_pair() -> None:
    static = variant(*(run("static", 2.0 * (1 + seed), seed=seed) for seed in range(3)))
    qat = variant(*(run("qat", 1.0 * (1 + seed), seed=seed) for seed in range(3)))
    ratio = over_seeds(static, qat, 1)
    assert ratio is not None  # the seeds differ threefold, the ratio is 2 in each
    assert (ratio.centre, ratio.reach) == pytest.approx((math.log(2), 0.0), abs=1e-12)
    assert over_seeds(static, variant(run("qat", 1.0)), 1) is None


def test_the_margin_is_that_of_the_runs() -> None:
    wide = dataclasses.replace(speedup(1, 1.05), margin=0.1)
    ratio = over_float(variant(method("static", speedups=[wide])), 1)
    assert ratio is not None
    assert ratio.verdict == "no difference"

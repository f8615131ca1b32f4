"""Rules are decided by intervals."""

from __future__ import annotations

import dataclasses
import math

import pytest

from quantexp.analysis.gate import FAIL, PASS, UNDECIDED, Judgement, Rules, differences, drop_difference, judge, worst
from quantexp.results import Report, Speedup
from quantexp.statistics.paired import drop_interval
from tests.builders import comparison, conditions, method, report, speedup


def only(made: Report, rules: Rules, against: Report | None = None) -> Judgement:
    (judgement,) = judge(made, rules, against)
    return judgement


@pytest.mark.parametrize(
    ("bound", "verdict"), [(1.9, PASS), (1.99, PASS), (2.0, UNDECIDED), (2.005, UNDECIDED), (2.02, FAIL), (3, FAIL)]
)
def test_a_speedup_is_decided_by_its_interval(bound: float, verdict: str) -> None:
    made = method("static", speedups=(speedup(1, 2.0),))  # [1.99, 2.01]
    judgement = only(made, Rules(min_speedup=bound))
    assert judgement == Judgement(f"speedup at batch 1 at least {bound:g}", verdict, "2.00x [1.99, 2.01]")


def test_every_measured_batch_size_has_a_line_and_those_that_are_named_only() -> None:
    made = method("static")  # 2.0 at batch 1, 4.0 at batch 64
    assert [judgement.verdict for judgement in judge(made, Rules(min_speedup=3))] == [FAIL, PASS]
    assert only(made, Rules(min_speedup=3, batch_sizes=(64,))).verdict == PASS


@pytest.mark.parametrize(("bound", "verdict"), [(0.01, PASS), (0.005, UNDECIDED), (0.0, UNDECIDED)])
def test_a_drop_is_decided_by_its_interval(bound: float, verdict: str) -> None:
    low, high = drop_interval(2, 4, 1000)
    assert (low < 0.0) and (0.005 < high < 0.01)
    assert only(report(), Rules(max_accuracy_drop=bound)).verdict == verdict


def test_a_large_drop_fails() -> None:
    lost = report(comparison=comparison(drop=0.1, flips_gained=0, flips_lost=100))
    assert only(lost, Rules(max_accuracy_drop=0.05)).verdict == FAIL


@pytest.mark.parametrize(("bound", "verdict"), [(1.5, PASS), (1.4, FAIL)])
def test_a_size_is_exact(bound: float, verdict: str) -> None:
    assert only(method("static", megabytes=1.5), Rules(max_size_mb=bound)).verdict == verdict


def test_agreement_has_the_interval_of_its_examples() -> None:
    made = report()  # 990 of 1000
    verdicts = [only(made, Rules(min_agreement=bound)).verdict for bound in (0.98, 0.985, 0.999)]
    assert verdicts == [PASS, UNDECIDED, FAIL]


def test_output_sqnr_is_exact_and_equal_outputs_pass() -> None:
    made = report()  # 30 dB
    assert [only(made, Rules(min_sqnr_db=bound)).verdict for bound in (30.0, 30.1)] == [PASS, FAIL]
    equal = report(comparison=comparison(output_sqnr_db=None, agreement=1.0))
    assert only(equal, Rules(min_sqnr_db=50)).verdict == PASS
    broken = report(comparison=comparison(output_sqnr_db=None, agreement=0.5))
    assert only(broken, Rules(min_sqnr_db=1)) == Judgement(
        "output SQNR at least 1 dB", FAIL, "some outputs are not finite"
    )


def test_an_unstable_speedup_is_undecided_with_the_reason_however_large_it_is() -> None:
    disturbed = conditions(1, unstable=("other processes used 0.9 cores",))
    made = dataclasses.replace(method("static", speedups=(speedup(1, 9.0),)), conditions=(disturbed,))
    judgement = only(made, Rules(min_speedup=2))
    assert judgement.verdict == UNDECIDED
    assert "unstable (other processes used 0.9 cores); measure again" in judgement.found


def test_a_speedup_without_an_interval_is_undecided() -> None:
    made = method("static", speedups=(Speedup(1, 9.0, None, None, 0.01),), benchmark="lab")
    judgement = only(made, Rules(min_speedup=2))
    assert judgement.verdict == UNDECIDED
    assert "without an interval; measure with benchmark=paired in place of benchmark=lab" in judgement.found


def test_a_batch_size_that_was_not_measured_is_undecided() -> None:
    judgement = only(method("static"), Rules(min_speedup=1, batch_sizes=(8,)))
    assert (judgement.verdict, judgement.found) == (UNDECIDED, "not measured at batch 8; measured: 1 and 64")


def test_against_another_run_the_ratio_of_the_paired_speedups_counts_and_not_the_latencies() -> None:
    fast = {1: 0.01}  # this machine is 20 times as fast
    made = method("static", speedups=(speedup(1, 1.8),), float_ms=fast)
    there = method("static", speedups=(speedup(1, 2.0),))
    rules = Rules(min_speedup=0.95)
    judgement = only(made, rules, there)
    reach = math.hypot(*[(math.log(1.005) - math.log(0.995)) / 2] * 2)
    ends = ", ".join(f"{0.9 * math.exp(sign * reach):.2f}" for sign in (-1, 1))
    assert judgement.verdict == FAIL
    assert judgement.found == f"0.90x [{ends}]"
    assert only(there, rules, made).verdict == PASS
    assert only(made, Rules(min_speedup=0.9), there).verdict == UNDECIDED


def test_against_another_run_the_difference_of_both_drops_counts() -> None:
    lost = report(comparison=comparison(drop=0.1, flips_gained=0, flips_lost=100))
    assert only(lost, Rules(max_accuracy_drop=0.01), lost).verdict == UNDECIDED
    assert only(lost, Rules(max_accuracy_drop=0.05), lost).verdict == PASS
    assert only(lost, Rules(max_accuracy_drop=0.05), report()).verdict == FAIL


def test_the_difference_of_two_drops_with_equal_arms_has_the_interval_of_independent_estimates() -> None:
    difference, low, high = drop_difference((0.05, 0.02, 0.08), (0.01, -0.03, 0.05))
    assert difference == pytest.approx(0.04)
    assert (low, high) == pytest.approx((0.04 - 0.05, 0.04 + 0.05))  # sqrt(0.03^2 + 0.04^2)


def test_a_failed_rule_outranks_an_undecided_one() -> None:
    found = [Judgement("", verdict, "") for verdict in (PASS, UNDECIDED, FAIL)]
    assert [worst(found[:count]) for count in (0, 1, 2, 3)] == [PASS, PASS, UNDECIDED, FAIL]


def test_differences_of_machine_protocol_and_data_are_named() -> None:
    other = report(host="there", threads=2, benchmark="quick")
    told = "; ".join(differences(report(), other))
    assert "machine differs: here (EPYC" in told
    assert "threads differs: 1; there 2" in told
    assert "protocol differs: paired; there quick" in told
    assert differences(report(), report()) == []

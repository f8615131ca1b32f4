"""Rules that a quantized network must keep, each decided by a confidence interval: passed, failed or undecided.

A rule on a figure that is exact, such as the size, is never undecided. A comparison with another run is one of the
paired speedups, and of the accuracy drops, that each run has over its own float network: latencies of two processes are
not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from quantexp.results import Comparison, QualityChange, Report, Speedup
from quantexp.results.text import listed, size_text
from quantexp.statistics.paired import drop_interval
from quantexp.statistics.proportions import wilson

PASS, FAIL, UNDECIDED = "pass", "fail", "undecided"


@dataclass(frozen=True, slots=True)
class Rules:
    """The bounds that are checked, None where there is none; a speedup at each of `batch_sizes`, or at all measured."""

    max_accuracy_drop: float | None = None
    min_speedup: float | None = None
    max_size_mb: float | None = None
    min_agreement: float | None = None
    min_sqnr_db: float | None = None
    batch_sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule decides: "pass", "fail" or "undecided", and the figure with its interval, or why there is none."""

    rule: str
    verdict: str
    found: str


def judge(report: Report, rules: Rules, against: Report | None = None) -> list[Judgement]:
    """Return the judgement of each rule on the quantized network of a report.

    Args:
        report: Of a run that quantized; with labels, if there is a rule on accuracy.
        rules: The bounds.
        against: Another such report; then the rules on accuracy drop and speedup are relative to it.
    """
    comparison = report.comparison
    assert comparison is not None
    return [*_quality(report, comparison, rules, against), *_speed(report, rules, against), *_size(report, rules)]


def worst(judgements: Iterator[Judgement] | list[Judgement]) -> str:
    """Return the verdict over all: a failed rule outranks an undecided one."""
    found = {judgement.verdict for judgement in judgements}
    return FAIL if FAIL in found else UNDECIDED if UNDECIDED in found else PASS


def differences(report: Report, other: Report) -> list[str]:
    """Return what differs between two runs that their comparison may be due to, a sentence each."""
    pairs = {
        "machine": tuple(f"{one.host} ({one.machine})" for one in (report, other)),
        "threads": (str(report.threads), str(other.threads)),
        "protocol": (report.benchmark, other.benchmark),
        "network": (report.network_name, other.network_name),
        "data": (report.data.fingerprint[:8], other.data.fingerprint[:8]),
        "evaluated examples": tuple(f"{one.data.evaluated:,} of {one.data.evaluation}" for one in (report, other)),
        "seed": (str(report.seed), str(other.seed)),
    }
    return [f"{name} differs: {mine}; there {theirs}" for name, (mine, theirs) in pairs.items() if mine != theirs]


# -- accuracy and outputs --------------------------------------------------------------------------------


def _quality(report: Report, comparison: Comparison, rules: Rules, against: Report | None) -> Iterator[Judgement]:
    examples = report.data.evaluated
    if (bound := rules.max_accuracy_drop) is not None:
        assert comparison.quality is not None
        rule, interval = f"accuracy drop at most {bound:g}", _drop(comparison.quality, examples)
        if against is not None:
            assert against.comparison is not None and against.comparison.quality is not None
            rule = f"accuracy drop at most {bound:g} more than there"
            interval = drop_difference(interval, _drop(against.comparison.quality, against.data.evaluated))
        yield Judgement(rule, _at_most(bound, *interval[1:]), _interval_text(*interval))
    if (bound := rules.min_agreement) is not None:
        low, high = wilson(round(comparison.agreement * examples), examples)
        text = _interval_text(comparison.agreement, low, high)
        yield Judgement(f"agreement at least {bound:g}", _at_least(bound, low, high), text)
    if (bound := rules.min_sqnr_db) is not None:
        yield _sqnr(bound, comparison)


def _drop(change: QualityChange, examples: int) -> tuple[float, float, float]:
    return change.drop, *drop_interval(change.flips_gained, change.flips_lost, examples)


def drop_difference(drop: tuple[float, float, float], other: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return how much larger one drop in accuracy is than another, with its 95 % interval; a drop is (d, low, high).

    The interval is that of Zou and Donner (2008): d1 - d2 - sqrt((d1 - low1)^2 + (high2 - d2)^2) to
    d1 - d2 + sqrt((high1 - d1)^2 + (d2 - low2)^2). It takes the drops for independent. Those on the same examples tend
    to rise and fall together, which makes it wider than necessary.
    """
    (first, low, high), (second, other_low, other_high) = drop, other
    difference = first - second
    below, above = math.hypot(first - low, other_high - second), math.hypot(high - first, second - other_low)
    return difference, difference - below, difference + above


def _sqnr(bound: float, comparison: Comparison) -> Judgement:
    """Judge the SQNR of the outputs, which is exact for the evaluated examples."""
    rule, sqnr = f"output SQNR at least {bound:g} dB", comparison.output_sqnr_db
    if sqnr is not None:
        return Judgement(rule, PASS if sqnr >= bound else FAIL, f"{sqnr:.1f} dB")
    if comparison.agreement == 1:
        return Judgement(rule, PASS, "the outputs equal those of the float network")
    return Judgement(rule, FAIL, "some outputs are not finite")


# -- speed and size --------------------------------------------------------------------------------------


def _speed(report: Report, rules: Rules, against: Report | None) -> Iterator[Judgement]:
    if rules.min_speedup is None:
        return
    for size in rules.batch_sizes or measured_sizes(report):
        rule = f"speedup at batch {size} at least {rules.min_speedup:g}"
        if against is not None:
            rule += " times that there"
        yield _speedup(rule, rules.min_speedup, size, report, against)


def _speedup(rule: str, bound: float, size: int, report: Report, against: Report | None) -> Judgement:
    logs = []
    for name, run in (("", report), ("there ", against)):
        if run is None:
            continue
        speedup = speedup_at(run, size)
        if speedup is None:
            known = listed([str(number) for number in measured_sizes(run)]) or "none"
            return Judgement(rule, UNDECIDED, f"{name}not measured at batch {size}; measured: {known}")
        if speedup.low is None or speedup.high is None:
            repair = f"measure with benchmark=paired in place of benchmark={run.benchmark}"
            return Judgement(rule, UNDECIDED, f"{name}{speedup.ratio:.2f}x without an interval; {repair}")
        if reasons := [reason for timed in run.conditions if timed.batch_size == size for reason in timed.unstable]:
            text = f"{name}{speedup_text(speedup)}, but unstable ({'; '.join(reasons)}); measure again"
            return Judgement(rule, UNDECIDED, text)
        logs.append((math.log(speedup.ratio), (math.log(speedup.high) - math.log(speedup.low)) / 2))
    centre, reach = logs[0]
    if against is not None:  # the runs are separate, so their errors are independent
        centre, reach = centre - logs[1][0], math.hypot(reach, logs[1][1])
    ratio, low, high = math.exp(centre), math.exp(centre - reach), math.exp(centre + reach)
    return Judgement(rule, _at_least(bound, low, high), f"{ratio:.2f}x [{low:.2f}, {high:.2f}]")


def speedup_at(report: Report, size: int) -> Speedup | None:
    """Return the paired speedup over the float network in the same runtime, None if it was not measured."""
    speedups = report.comparison.speedups if report.comparison else ()
    return next((speedup for speedup in speedups if speedup.batch_size == size), None)


def speedup_text(speedup: Speedup) -> str:
    """Return a speedup with its interval: `2.50x [2.41, 2.60]`."""
    ends = "" if speedup.low is None or speedup.high is None else f" [{speedup.low:.2f}, {speedup.high:.2f}]"
    return f"{speedup.ratio:.2f}x{ends}"


def measured_sizes(report: Report) -> tuple[int, ...]:
    """Return the batch sizes at which the quantized network was compared with the float one."""
    return tuple(speedup.batch_size for speedup in report.comparison.speedups) if report.comparison else ()


def _size(report: Report, rules: Rules) -> Iterator[Judgement]:
    if (bound := rules.max_size_mb) is not None:
        size = report.result.size_mb
        yield Judgement(f"size at most {bound:g} MB", PASS if size <= bound else FAIL, f"{size_text(size)} MB")


# -- intervals -------------------------------------------------------------------------------------------


def _at_most(bound: float, low: float, high: float) -> str:
    return PASS if high <= bound else FAIL if low > bound else UNDECIDED


def _at_least(bound: float, low: float, high: float) -> str:
    return PASS if low >= bound else FAIL if high < bound else UNDECIDED


def _interval_text(value: float, low: float, high: float) -> str:
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"

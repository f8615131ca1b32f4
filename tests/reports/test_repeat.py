"""A run and its repetition: accuracy must be the same, a speedup close."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quantexp.reports.repeat import side_by_side
from quantexp.results import Speedup
from tests.builders import comparison, report


def speedups(ratio: float, low: float, high: float) -> tuple[Speedup, ...]:
    return (Speedup(1, ratio, low, high, 0.01, (ratio, ratio)),)


@pytest.mark.parametrize(
    ("now", "verdict", "same"),
    [
        (speedups(2.08, 2.05, 2.11), "within 5% (+4.0%)", True),
        (speedups(2.20, 2.02, 2.40), "within the intervals (+10.0%)", True),
        (speedups(2.20, 2.15, 2.25), "differs by +10.0%", False),
        (speedups(1.80, 1.75, 1.85), "differs by -10.0%", False),
    ],
)
def test_a_speedup_agrees_within_5_percent_or_within_the_intervals(
    now: tuple[Speedup, ...], verdict: str, same: bool
) -> None:
    then = report(comparison=comparison(speedups=speedups(2.0, 1.95, 2.05)))
    again = replace(then, comparison=comparison(speedups=now))
    table, found = side_by_side(then, again, elsewhere=False)
    assert [row[3] for row in table.rows if row[0] == "Speedup B1"] == [verdict]
    assert found is same
    assert table.notes == (("Reproduced.",) if same else ("Not reproduced: Speedup B1.",))


def test_one_example_more_that_is_right_is_not_the_same_accuracy() -> None:
    then = report()
    assert then.quantized and then.quantized.quality
    better = replace(then.quantized.quality, value=then.quantized.quality.value + 0.0001)
    now = replace(then, quantized=replace(then.quantized, quality=better))
    table, same = side_by_side(then, now, elsewhere=True)
    assert not same
    assert table.notes[0].startswith(
        "Not reproduced: Accuracy, static int8. Machine or versions changed since the original run"
    )

"""What the study `search` tells, from models whose figures are given."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from quantexp.config import Criterion
from quantexp.results import Data
from quantexp.studies.search.findings import Candidate, Choice, Goal, SearchReport
from quantexp.studies.search.pictures import latency_figure, pictures, size_figure
from quantexp.studies.search.table import ROWS, history, metrics, table
from tests.builders import comparison, conditions, measured, report, speedup

PNG = b"\x89PNG"
EXAMPLES = 1000
GOAL = Goal(Criterion.accuracy, 0.003, "latency", 64, 0.01)
HELD = Data("full", "given", "d" * 64, 9000, 512, 500, EXAMPLES, "validation")


def model(name: str, lost: int, ratio: float, kilobytes: int = 100, **changes: Any) -> Candidate:
    """A model that loses so many of the 1000 validation examples, with its speedup at batch 64 and its size."""
    made = comparison(
        drop=lost / EXAMPLES,
        flips_gained=1,
        flips_lost=lost + 1,
        speedups=[speedup(1, 1.5), speedup(64, ratio)],
    )
    size = dataclasses.replace(measured("int8").size, state_bytes=1000 * kilobytes)
    run = report(comparison=made, data=HELD, quantized=measured("int8", size=size), **changes)
    return Candidate.measured(Choice(name, "static", (name,)), run)


def searched(*tried: Candidate, goal: Goal = GOAL, **changes: Any) -> SearchReport:
    run = tried[0].report
    assert run is not None
    return SearchReport(goal, (Candidate.unquantized(run),), tried, **{"failed": {}, "ended": "local", **changes})


def names(models: Any) -> list[str]:
    return [one.choice.name for one in models]


def test_a_bound_is_met_to_the_example() -> None:
    for lost in range(EXAMPLES):
        assert dataclasses.replace(GOAL, limit=lost / EXAMPLES).met_by(model("a", lost, 1.0))
    assert not GOAL.met_by(model("a", 4, 1.0))


def test_of_those_that_are_as_fast_as_the_fastest_the_one_that_loses_least_is_best() -> None:
    chain = [model(f"{ratio}", lost, ratio) for ratio, lost in ((4.0, 3), (3.97, 2), (3.94, 1), (3.91, 0))]
    for order in (chain, chain[::-1]):
        assert GOAL.best(order) is chain[1], "3.94 is more than 1 % slower, however one comes there"
    assert dataclasses.replace(GOAL, objective="size").best([*chain, model("small", 3, 1.0, 99)]).choice.name == "small"


def test_a_candidate_within_the_bound_is_better_and_else_the_least_loss() -> None:
    fast, slow = model("fast", 50, 9.0), model("slow", 3, 1.1)
    assert GOAL.best([fast, slow]) is slow
    assert GOAL.best([fast, model("less", 49, 0.5)]).choice.name == "less"


def test_the_table_has_the_answer_on_top_and_what_is_beyond_the_bound_at_its_end() -> None:
    found = searched(model("beyond", 9, 9.0), model("best", 3, 4.0, 300), model("small", 0, 2.0, 90))
    rows = table(found).rows
    assert [row[0] for row in rows] == ["answer: best", "small", "none", "beyond"]
    assert [row[-2] for row in rows] == ["met", "met", "met", "missed"]
    assert [row[-1] for row in rows] == ["latency", "both", "", "latency"]
    assert rows[0][1:5] == ("static int8", "-0.30", "+1 / -4", "30.0")
    assert rows[2][1:3] == ("float", "+0.00")
    assert (
        table(found)
        .notes[0]
        .startswith("Answer: static int8 on best, -0.30 points, speedup 4.00x at batch 64, 0.300 MB")
    )


def test_a_long_search_shows_its_best_rows_and_float_and_keeps_all_in_the_history() -> None:
    many = [model(f"m{at}", at, 9.0 - at / 10) for at in range(50)]
    found = searched(*many)
    rows = table(found).rows
    assert len(rows) <= ROWS + 1
    assert "none" in [row[0] for row in rows]
    assert any("history.csv has all 51 candidates" in note for note in table(found).notes)
    header, *lines = history(found)
    assert [line[1] for line in lines] == ["none", *names(many)]
    assert [line[header.index("best_step")] for line in lines[:3]] == [0, 1, 1]


def test_the_fronts_hold_what_no_other_beats() -> None:
    found = searched(model("a", 5, 4.0, 100), model("b", 5, 3.0, 90), model("c", 6, 3.5, 95), model("d", -1, 2.0, 200))
    assert names(found.fronts["latency"]) == ["a", "d"]
    assert names(found.fronts["size"]) == ["b", "d"]


def test_what_is_recorded_is_the_best_on_validation_and_its_run_on_test() -> None:
    tested = report(comparison=comparison(drop=0.004, speedups=[speedup(1, 1.5), speedup(64, 3.9)]))
    found = metrics(searched(model("a", 2, 4.0), tested=tested, command="quantexp a"))
    assert found["best/accuracy_drop"] == pytest.approx(0.002)
    assert found["test/accuracy_drop"] == pytest.approx(0.004)
    assert (found["best/speedup_b64"], found["test/speedup_b64"]) == (4.0, 3.9)
    assert found["variants"] == 1


def test_the_notes_name_the_limits_of_the_result() -> None:
    noisy = model("a", 2, 4.0, conditions=(conditions(1, unstable=("others ran",)), conditions(64)))
    found = searched(noisy, model("b", 1, 1.0), failed={"static, b": "no kernel"}, checkpoint="mine.pt", ended="budget")
    notes = "\n".join(table(found).notes)
    assert "UNSTABLE in 1 of 2 runs" in notes
    assert "Not measured: static, b (no kernel)." in notes
    assert "The weights come from mine.pt" in notes
    assert "study.max_variants ended the search" in notes
    assert table(dataclasses.replace(found, ended=None)).notes[0].startswith("Best so far: ")


def test_a_bound_below_zero_is_called_a_gain() -> None:
    for drop, told in ((0.003, "Bound: loss of at most 0.30 points."), (-0.02, "Bound: gain of at least 2.00 points.")):
        found = searched(model("a", 2, 4.0), goal=dataclasses.replace(GOAL, limit=drop))
        assert any(told in note for note in table(found).notes)


def test_the_pictures_draw_every_model_the_front_the_bound_and_the_answer() -> None:
    found = searched(model("a", 5, 4.0, 100), model("b", 1, 3.0, 90))
    assert {name: data[:4] for name, data in pictures(found).items()} == {
        "accuracy_by_latency.png": PNG,
        "accuracy_by_size.png": PNG,
    }
    for figure, costs in ((latency_figure(found), [25.0, 100 / 3, 100.0]), (size_figure(found), None)):
        (axes,) = figure.axes
        drawn = [line for line in axes.lines if line.get_marker() not in ("None", "*", None)]
        assert len(drawn) == 3
        if costs:
            assert sorted(float(line.get_xdata()[0]) for line in drawn) == pytest.approx(costs)  # type: ignore[index]
        assert sum(line.get_marker() == "*" for line in axes.lines) == 1
        low, high = axes.get_ylim()
        assert low < -0.5 < -0.3 < 0 < high, "the bound, and what is beyond it, are in the picture"

"""How the study `search` climbs: over models whose figures are given, so that every answer can be worked out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from quantexp.config import Dynamic, Experiment, Flow, Static
from quantexp.results import Report
from quantexp.system.errors import QuantizationError
from tests.builders import comparison
from tests.studies.searched import Searched, harms


@pytest.mark.parametrize("objective", ["latency", "size"])
def test_exactly_the_layer_that_breaks_the_bound_stays_in_float(objective: str) -> None:
    found = Searched("abc", harms(a=1, b=40, c=2), max_accuracy_drop=0.003, objective=objective)
    assert found.answer == ("all but b", "static")
    assert found.found.metrics["best/accuracy_drop"] == pytest.approx(0.003), "3 of 1000 examples are within 0.003"


def test_everything_is_quantized_where_the_bound_allows_it() -> None:
    found = Searched("abc", harms(a=1, b=1, c=1), max_accuracy_drop=0.003)
    assert found.answer == ("all", "static")
    assert len(found.asked) == 1 + 3 + 1  # all, all but each, the answer on the test split


def test_of_many_layers_the_worst_stay_in_float_after_few_variants() -> None:
    lost = {letter: 1 for letter in "abcdefghijkl"} | {"b": 30, "e": 50, "h": 40, "k": 20}
    found = Searched("abcdefghijkl", harms(**lost), max_accuracy_drop=0.01)
    assert found.answer == ("all but b, e, h, k", "static")
    # all, all but each, one more for each further layer that is to stay, and the neighbours of the last to make sure
    assert len(found.asked) - 1 == 1 + 12 + 3 + 11


def test_where_no_single_layer_helps_it_climbs_from_float_upwards() -> None:
    def figures(method: str, chosen: frozenset[str], dynamic: frozenset[str]) -> tuple[int, float]:
        return (0 if len(chosen) == 1 else 100), 1.0 + 0.1 * ("c" in chosen) + len(chosen) / 100

    found = Searched("abcd", figures, max_accuracy_drop=0.003)
    assert found.answer == ("c", "static")


def test_the_budget_ends_it_with_the_best_so_far_and_says_so() -> None:
    lost = {"a": 1, "b": 40, "c": 50, "d": 1}
    found = Searched("abcd", harms(**lost), max_accuracy_drop=0.003, max_variants=5)
    assert len(found.asked) == 5  # nothing quantized is within the bound yet: there is nothing to test
    assert found.answer == ("none", "float")
    assert "5 variants measured; study.max_variants ended the search" in found.notes
    more = Searched("abcd", harms(**lost), max_accuracy_drop=0.003, max_variants=6)
    assert more.answer == ("all but b, c", "static"), "the most promising one comes first"


def test_a_bound_of_zero_gives_a_model_that_loses_nothing() -> None:
    found = Searched("abc", harms(a=1, b=0, c=3), max_accuracy_drop=0)
    assert found.answer == ("b", "static")
    assert found.found.metrics["best/accuracy_drop"] == 0
    floats = Searched("abc", harms(a=1, b=2, c=3), max_accuracy_drop=0)
    assert floats.answer == ("none", "float")
    assert "float; no quantized variant meets the bound, the nearest is static int8 on a, -0.10 points" in floats.notes
    assert all(one.evaluation == "validation" for one in floats.asked), "the float model is not measured for itself"


def test_a_candidate_that_is_no_faster_than_float_is_not_the_answer() -> None:
    found = Searched("ab", lambda *_: (0, 0.8), max_accuracy_drop=0.01)
    assert found.answer == ("none", "float")
    assert "no quantized variant within the bound is faster at batch 1 by more than 1%, the best is" in found.notes


def test_without_a_candidate_within_the_bound_the_nearest_one_is_the_answer() -> None:
    found = Searched("abc", harms(a=1, b=-2, c=3), max_accuracy_drop=-0.05)
    assert found.answer == ("b", "static")
    assert (
        "none; no candidate meets the bound (gain of at least 5.00 points), the nearest is static int8 on b, +0.20"
        in found.notes
    )
    assert found.found.metrics["best/within_bound"] == 0
    assert {row[-2] for row in found.found.table.rows} == {"missed"}


def test_each_method_is_climbed_and_the_best_of_all_is_the_answer() -> None:
    def figures(method: str, chosen: frozenset[str], dynamic: frozenset[str]) -> tuple[int, float]:
        if method == "static":
            return 100 * len(chosen), 4.0
        return 0, 1.0 + 0.1 * len(chosen)

    found = Searched("ab", figures, Static(flow=Flow.pt2e), methods=["static", "dynamic"])
    assert found.answer == ("all", "dynamic")
    assert isinstance(found.asked[-1].quant, Dynamic)
    assert "To run the answer alone: make dynamic" in found.notes


def test_a_layer_that_is_bad_static_and_good_dynamic_is_left_to_dynamic() -> None:
    def figures(method: str, chosen: frozenset[str], dynamic: frozenset[str]) -> tuple[int, float]:
        slow = len(dynamic) if method == "static" else len(chosen)
        bad = method == "static" and "b" in chosen - dynamic
        return (50 if bad else 0), 1.0 + len(chosen) - 0.4 * slow

    found = Searched("abc", figures, methods=["static", "dynamic"])
    assert found.answer == ("all (dynamic: b)", "static")
    assert found.asked[-1].quant == Static(dynamic=["b"])
    statics = [one.quant for one in found.asked if isinstance(one.quant, Static)]
    assert all(len(one.dynamic) < len(one.include or "abc") for one in statics), "that is what dynamic itself is for"


def test_no_method_takes_the_share_of_another() -> None:
    found = Searched("abcdef", harms(**dict.fromkeys("abcdef", 50)), methods=["dynamic", "static"], max_variants=8)
    names = [one.quant.name for one in found.asked]
    assert (names.count("dynamic"), names.count("static")) == (3, 5)


def test_a_variant_that_cannot_be_quantized_is_named_and_the_others_continue() -> None:
    def figures(method: str, chosen: frozenset[str], dynamic: frozenset[str]) -> tuple[int, float]:
        if chosen == {"a", "c"}:
            raise QuantizationError("it has no kernel")
        return harms(a=1, b=40, c=2)(method, chosen, dynamic)

    found = Searched("abc", figures, max_accuracy_drop=0.003)
    assert "Not measured: static, all but b (it has no kernel)." in found.notes
    assert found.answer[0] in ("a", "c")
    with pytest.raises(QuantizationError, match="no kernel"):
        Searched("ac", figures)


def test_modules_are_chosen_as_a_whole_and_the_others_are_always_quantized() -> None:
    lost = {"net.a": 0, "net.b": 0, "head": 50}

    def figures(method: str, chosen: frozenset[str], dynamic: frozenset[str]) -> tuple[int, float]:
        return sum(lost[one] for one in chosen), 1.0 + len(chosen)

    found = Searched(("net.a", "net.b", "head"), figures, layers=["net"])
    assert found.answer == ("none", "float")
    asked = [one.quant.include for one in found.asked if isinstance(one.quant, Static)]
    assert asked == [[], ["head"]]


def test_patterns_that_match_nothing_or_a_layer_twice_are_refused() -> None:
    with pytest.raises(QuantizationError, match="'x' matches none; the layers are a, b"):
        Searched("ab", harms(a=1, b=1), layers=["x"])
    with pytest.raises(QuantizationError, match=r"name each layer once, n\.a is in n and in n\.a"):
        Searched(("n.a", "n.b"), lambda *_: (0, 2.0), layers=["n", "n.a"])


def test_the_test_split_decides_nothing() -> None:
    class Disagreeing(Searched):
        def _report(self, experiment: Experiment) -> Report:
            made = super()._report(experiment)
            if experiment.evaluation == "validation":
                return made
            return dataclasses.replace(made, comparison=comparison(drop=0.5, flips_gained=0, flips_lost=250))

    found = Disagreeing("abc", harms(a=1, b=40, c=2), max_accuracy_drop=0.003)
    assert found.answer == ("all but b", "static")
    assert [one.evaluation for one in found.asked] == ["validation"] * (len(found.asked) - 1) + ["test"]
    assert found.found.metrics["test/accuracy_drop"] == 0.5
    assert "On the test split: " in found.notes
    assert "vs float -50.00 points: +0 / -250 examples (exact" in found.notes


def test_findings_are_given_after_each_variant_and_end_as_the_answer() -> None:
    found = Searched("abc", harms(a=1, b=40, c=2), max_accuracy_drop=0.003)
    assert [one.metrics["variants"] for one in found.so_far] == list(range(1, len(found.so_far) + 1))
    assert len(found.so_far) == len(found.asked) - 1
    assert found.so_far[0].table.notes[0].startswith("Best so far: float")
    assert found.so_far[-1].lines == found.found.lines
    header, *lines = found.found.lines["history"]
    steps: list[Mapping[str, Any]] = [dict(zip(map(str, header), line, strict=True)) for line in lines]
    assert [one["step"] for one in steps] == list(range(len(lines)))
    best = next(one["step"] for one in steps if one["quantized"] == "all but b")
    assert steps[-1]["best_step"] == best
    assert steps[best - 1]["best_step"] < best

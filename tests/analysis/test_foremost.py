"""Which networks are shown where there is no room for all."""

from __future__ import annotations

import pytest

from quantexp.analysis.foremost import foremost, foremost_networks, leading
from quantexp.analysis.methods import MANY, method_pairs
from quantexp.analysis.variants import networks
from quantexp.results.sweep import Entry
from tests.builders import entry, lone, method, speedup, sweep


def network(width: int, correct: int, ratio: float, megabytes: float) -> Entry:
    """A run of static that is `ratio` times as fast as float, which takes 0.2 ms, has 978 right and 5.9 MB."""
    made = method("static", correct=correct, megabytes=megabytes, speedups=[speedup(1, ratio)])
    return entry(made, model__hidden=f"[{width}]")


# The second beats all others in everything. The float networks are alike.
FOUND = networks(sweep(network(1, 970, 1.5, 2.0), network(2, 990, 4.0, 1.0), network(3, 980, 2.0, 1.5)))


def widths(found: list) -> list[str]:  # type: ignore[type-arg]
    return [dict(one.settings)["model.hidden"] for one in found]


def test_what_beats_all_others_leads_alone() -> None:
    (one,) = leading(FOUND)
    assert (one.quant, dict(one.settings)["model.hidden"]) == ("static", "[2]")


def test_what_is_fastest_smallest_or_most_accurate_leads() -> None:
    fast, small, good = network(1, 960, 9.0, 3.0), network(2, 961, 2.0, 0.5), network(3, 995, 0.5, 3.0)
    beaten = network(4, 959, 1.0, 4.0)
    assert {dict(one.settings)["model.hidden"] for one in leading(networks(sweep(fast, small, good, beaten)))} >= {
        "[1]",
        "[2]",
        "[3]",
    }


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (6, ["[1]", "[2]", "[3]"]),
        (100, ["[1]", "[2]", "[3]"]),
        (5, ["[1]", "[2]", "[3]"]),
        (4, ["[1]", "[2]"]),
        (2, ["[2]"]),
    ],
)
def test_those_that_lead_come_first_then_the_first_of_the_sweep_in_its_order(most: int, expected: list[str]) -> None:
    found = foremost(FOUND, most)
    assert widths(found) == expected
    assert sum(len(one.variants) for one in found) <= most


@pytest.mark.parametrize(("most", "expected"), [(1, ["[2]"]), (2, ["[1]", "[2]"]), (9, ["[1]", "[2]", "[3]"])])
def test_whole_networks_are_chosen_in_the_same_way(most: int, expected: list[str]) -> None:
    found = foremost_networks(FOUND, most)
    assert widths(found) == expected
    assert all(len(one.variants) == 2 for one in found)


def test_the_float_network_stays_with_its_quantized_ones() -> None:
    for most in range(2, 7):
        assert all(one.variants[0].is_float for one in foremost(FOUND, most))


def test_of_a_network_with_many_variants_those_that_lead_are_kept() -> None:
    worse = [
        entry(method("static", correct=950, megabytes=2.0, speedups=[speedup(1, 1.1)]), quant__exclude=f"[{number}]")
        for number in range(20)
    ]
    best = entry(method("static", correct=999, megabytes=1.0, speedups=[speedup(1, 5.0)]), quant__exclude="[best]")
    (one,) = foremost(networks(sweep(*worse, best)), 4)
    assert [dict(variant.settings).get("quant.exclude") for variant in one.variants] == [None, "[0]", "[1]", "[best]"]


def test_many_methods_are_compared_over_seeds_with_float_only() -> None:
    def pairs(count: int) -> list[set[str]]:
        ones = [entry(lone(seed=seed)) for seed in (0, 1)]
        for name in ("static", "dynamic"):
            ones += [
                entry(method(name, seed=seed), quant__exclude=f"[{number}]", quant__engine=f"{number}")
                for number in range(count)
                for seed in (0, 1)
            ]
        (one,) = networks(sweep(*ones))
        assert len(one.variants) == 2 * count + 1
        return [{pair.first.quant, pair.second.quant} for pair in method_pairs(one)]

    few = (MANY - 2) // 2
    assert pairs(few).count({"static", "dynamic"}) == few * few
    many = pairs(MANY)
    assert many.count({"static", "dynamic"}) == 0
    assert many.count({"none", "static"}) == MANY

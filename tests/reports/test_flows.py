"""Leaving torch.ao: each flow without it against the one that it replaces, on the same network."""

from __future__ import annotations

import dataclasses
import math

import pytest

from quantexp.reports.flows import flows_table
from quantexp.reports.table import Table
from quantexp.results import Report
from tests.builders import entry, method, speedup, sweep


def flipped(made: Report, gained: tuple[int, ...], lost: tuple[int, ...]) -> Report:
    assert made.comparison and made.comparison.quality
    change = dataclasses.replace(made.comparison.quality, gained_examples=gained, lost_examples=lost)
    return dataclasses.replace(made, comparison=dataclasses.replace(made.comparison, quality=change))


def run(ratio: float, *, gained: tuple[int, ...] = (), lost: tuple[int, ...] = (), **changes: object) -> Report:
    made = method("static", speedups=(speedup(1, ratio),), **changes)  # type: ignore[arg-type]
    return flipped(made, gained, lost)


def leaving(*entries: object) -> Table:
    table = flows_table(sweep(*entries))  # type: ignore[arg-type]
    assert table is not None
    return table


FX = entry(run(2.0, gained=(1, 2), lost=(9,)), quant__flow="fx", quant__engine="x86")
OTHER_ENGINE = entry(run(3.0), quant__flow="fx", quant__engine="onednn")
EAGER = entry(run(1.9), quant__flow="eager", quant__engine="x86")
PT2E = entry(run(1.0, gained=(2, 3), lost=()), quant__flow="pt2e", quant__engine="None")


def test_the_candidate_is_compared_with_fx_in_its_default_engine() -> None:
    table = leaving(OTHER_ENGINE, EAGER, FX, PT2E)
    (row,) = table.rows
    assert row[:5] == ("mnist", "static", "int8", "fx", "pt2e")
    # Of 1000 examples, 3 and 9 are gained, 1 is lost.
    assert row[5:8] == ("1.50 to 1.50", "+0.10 points: +2 / -1 examples", "no")
    reach = math.sqrt(2) * math.log(1.005 / 0.995) / 2
    assert row[8] == f"0.50x [{math.exp(math.log(0.5) - reach):.2f}, {math.exp(math.log(0.5) + reach):.2f}] slower"


def test_without_runs_of_fx_the_baseline_is_eager() -> None:
    assert leaving(EAGER, PT2E).rows[0][3:5] == ("eager", "pt2e")


def test_six_gained_examples_and_no_lost_one_are_significant() -> None:
    won = entry(run(1.0, gained=(1, 2, 11, 12, 13, 14, 15, 16), lost=(9,)), quant__flow="pt2e", quant__engine="None")
    assert leaving(FX, won).rows[0][6:8] == ("+0.60 points: +6 / -0 examples", "gain")


def test_with_several_seeds_differences_are_computed_per_seed() -> None:
    made = []
    for seed, (left, taken) in enumerate([(970, 960), (980, 970), (975, 965)]):
        for flow, correct in (("fx", left), ("pt2e", taken)):
            one = dataclasses.replace(run(2.0, correct=correct), seed=seed)
            made.append(entry(one, quant__flow=flow, seed=str(seed)))
    row = leaving(*made).rows[0]
    assert row[6].startswith("-1.00 points [")
    assert row[7] == "loss"


@pytest.mark.parametrize("entries", [(FX,), (FX, EAGER), (PT2E,)], ids=["one", "both of torch.ao", "none of it"])
def test_without_flows_of_both_kinds_there_is_nothing_to_compare(entries: tuple[object, ...]) -> None:
    assert flows_table(sweep(*entries)) is None  # type: ignore[arg-type]

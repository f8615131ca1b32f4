"""Which runtime is fastest: through the float network in eager execution, which every run has timed."""

from __future__ import annotations

import dataclasses
import math

import pytest

from quantexp.analysis.recommendation import recommend
from quantexp.analysis.runtimes import between, cells, sentences
from quantexp.reports.runtimes_table import runtimes_table, verdicts_table
from quantexp.results import Report
from quantexp.results.sweep import SweepResult
from tests.builders import entry, measured, method, other_float, other_quantized, speedup, sweep

SPREAD = 0.02  # of the placements; the interval has half of it on both sides


def eager(flow: str, ratio: float) -> Report:
    """A static run in eager execution, so much faster than float there."""
    return method("static", speedups=[speedup(1, ratio, spread=SPREAD)], flow=flow)


def elsewhere(runtime: str, over_eager: float, float_over_eager: float) -> Report:
    """A static run in another runtime, with what it is over float in eager execution, and what float is there."""
    own = speedup(1, over_eager / float_over_eager, spread=SPREAD)
    beside = other_float(
        "eager",
        {1: 0.2},
        speedups=(speedup(1, 1 / float_over_eager, spread=SPREAD),),
        quantized_speedups=(speedup(1, over_eager, spread=SPREAD),),
    )
    return method("static", speedups=[own], runtime=runtime, flow="pt2e", others=(beside,))


def beside(runtime: str, over_eager: float, float_over_eager: float) -> Report:
    """A static run in eager execution, 1.5 times as fast as float, with both networks in a further runtime."""
    there = other_quantized(
        runtime,
        {1: 0.05},
        measured=measured("int8", correct=900, weight_bytes={"int8": 1_998_000}, ms={1: 0.05}),
        speedups=(speedup(1, over_eager / float_over_eager, spread=SPREAD / 2),),
        eager_speedups=(speedup(1, over_eager, spread=SPREAD),),
    )
    reference = other_float(runtime, {1: 0.1}, speedups=(speedup(1, float_over_eager, spread=SPREAD),))
    one = eager("fx", 1.5)
    return dataclasses.replace(one, others=(reference,), others_quantized=(there,))


def found() -> SweepResult:
    """Four runs: int8 of torch.ao is 2 and 1.5 times as fast as float, ONNX Runtime's 6 times, OpenVINO's 3 times."""
    return sweep(
        entry(eager("fx", 2.0), quant__flow="fx"),
        entry(eager("pt2e", 1.5), quant__flow="pt2e"),
        entry(elsewhere("onnxruntime", 6.0, 2.0), quant__flow="pt2e"),
        entry(elsewhere("openvino", 3.0, 1.25), quant__flow="pt2e"),
    )


def test_networks_are_ranked_by_their_speedup_over_float_in_eager_execution() -> None:
    (cell,) = cells(found())
    assert [(one.method, one.runtime, round(math.exp(one.ratio.centre), 3)) for one in cell.ranked] == [
        ("static int8 pt2e", "onnxruntime", 6.0),
        ("static int8 pt2e", "openvino", 3.0),
        ("static int8 fx", "eager", 2.0),
        ("float", "onnxruntime", 2.0),
        ("static int8 pt2e", "eager", 1.5),
        ("float", "openvino", 1.25),
        ("float", "eager", 1.0),
    ]
    assert cell.torch_ao is not None and cell.torch_ao.method == "static int8 fx"
    assert cell.best_float.runtime == "onnxruntime"


def test_networks_of_two_runs_have_the_errors_of_both_and_those_of_one_run_their_own() -> None:
    (cell,) = cells(found())
    fastest, openvino, *_ = cell.ranked
    ratio = between(fastest, openvino)
    assert math.exp(ratio.centre) == pytest.approx(2.0)
    assert fastest.ratio.reach is not None and ratio.reach == pytest.approx(math.sqrt(2) * fastest.ratio.reach)
    direct = between(fastest, cell.best_float)
    assert math.exp(direct.centre) == pytest.approx(3.0)
    assert direct.reach == pytest.approx(fastest.ratio.reach, rel=0.01), "timed in turns in one run"


def test_the_sentence_names_the_fastest_and_what_it_beats() -> None:
    (told,) = sentences(found())
    assert told == (
        "mnist: at batch 1, static int8 pt2e in onnxruntime is fastest: 6.00x [5.94, 6.06] over float in eager "
        "execution, 3.00x [2.96, 3.04] over int8 of torch.ao (static int8 fx in eager), 3.00x [2.97, 3.03] over the "
        "fastest float (float in onnxruntime)."
    )
    assert recommend(found()).startswith(told)


def test_networks_that_are_as_fast_within_their_intervals_are_named() -> None:
    close = sweep(
        entry(elsewhere("onnxruntime", 6.0, 2.0), quant__flow="pt2e"),
        entry(elsewhere("openvino", 5.98, 1.25), quant__flow="pt2e"),
    )
    assert "is fastest (no significant difference to static int8 in openvino)" in next(sentences(close))


def test_the_tables_have_a_row_for_each_cell_and_for_each_network_in_a_runtime() -> None:
    verdicts, every = verdicts_table(found()), runtimes_table(found())
    assert verdicts is not None and every is not None
    assert verdicts.rows == (
        (
            "mnist",
            "1",
            "static int8 pt2e in onnxruntime",
            "6.00x [5.94, 6.06] faster",
            "3.00x [2.96, 3.04] faster",
            "3.00x [2.97, 3.03] faster",
        ),
    )
    assert len(every.rows) == 7
    assert every.columns[3:7] == ("Size (MB)", "Accuracy (%)", "Load (ms)", "First call (ms)")
    assert ("mnist", "eager", "float", "", "", "", "", "1") in every.rows


def test_the_further_runtimes_of_a_single_run_are_ranked_with_its_own() -> None:
    single = sweep(entry(beside("torchscript", 4.0, 1.25), quant__flow="fx"))
    (cell,) = cells(single)
    assert [(one.method, one.runtime, round(math.exp(one.ratio.centre), 3)) for one in cell.ranked] == [
        ("static int8", "torchscript", 4.0),
        ("static int8", "eager", 1.5),
        ("float", "torchscript", 1.25),
        ("float", "eager", 1.0),
    ]
    assert cell.torch_ao is cell.ranked[1], "int8 of torch.ao, but not in eager execution, is another network"
    direct = between(cell.fastest, cell.best_float)
    assert (math.exp(direct.centre), direct.reach) == (pytest.approx(3.2), pytest.approx(SPREAD / 4, rel=0.01))


def test_a_network_in_a_further_runtime_has_the_size_and_the_accuracy_that_it_has_there() -> None:
    every = runtimes_table(sweep(entry(beside("torchscript", 4.0, 1.25), quant__flow="fx")))
    assert every is not None
    (row,) = [row for row in every.rows if row[1:3] == ("torchscript", "static int8")]
    there = beside("torchscript", 4.0, 1.25).others_quantized[0].measured
    first_call = f"{there.latency[0].first_call_ms:.1f}"
    assert row == ("mnist", *row[1:3], "2.00", "90.00", "12.0", first_call, "4.00x [3.96, 4.04] faster")


def test_a_run_in_the_runtime_comes_before_a_run_that_has_it_as_a_further_one() -> None:
    both = sweep(
        entry(beside("onnxruntime", 4.0, 1.25), quant__flow="pt2e"),
        entry(elsewhere("onnxruntime", 6.0, 2.0), quant__flow="pt2e"),
    )
    (cell,) = cells(both)
    ratios = {(one.method, one.runtime): round(math.exp(one.ratio.centre), 3) for one in cell.ranked}
    assert len(ratios) == len(cell.ranked) == 4
    assert (ratios["static int8", "onnxruntime"], ratios["float", "onnxruntime"]) == (6.0, 2.0)


def test_a_sweep_in_one_runtime_has_no_such_table() -> None:
    alone = sweep(entry(eager("fx", 2.0), quant__flow="fx"), entry(eager("pt2e", 1.5), quant__flow="pt2e"))
    assert verdicts_table(alone) is None and runtimes_table(alone) is None and not list(sentences(alone))

"""The study `search` over several runtimes: what is compared, what is left out, and what names the runtime."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from collections.abc import Callable, Mapping
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from quantexp.config import ByLayer, Dynamic, Engine, Experiment, Flow, Local, NoQuant, Search, Static, WeightOnly
from quantexp.results import Report
from quantexp.runner.finished import read_finished_run
from quantexp.runner.reproduce import restore
from quantexp.studies.search import study as search
from quantexp.studies.search.findings import Candidate, Choice, Goal, SearchReport
from quantexp.studies.search.pictures import latency_figure, size_figure
from quantexp.system.errors import BenchmarkError, ConfigError
from quantexp.tracking.store import open_store
from tests.builders import comparison, lone, measured, other_float, report, speedup
from tests.studies.searched import Figures, Searched, data_of, harms

pytestmark = pytest.mark.skipif(
    not all(util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript")),
    reason="needs the extra onnxruntime",
)


class Runtimes(Searched):
    """A search over runtimes: each has the speedup of its float network over that in eager execution, and figures.

    The speedups of the figures are over the float network in the same runtime. A runtime that has none fails.
    """

    def __init__(
        self, runtimes: Mapping[str, tuple[float, Figures] | None], quant: ByLayer | None = None, **settings: Any
    ) -> None:
        self.runtimes = runtimes
        super().__init__("ab", harms(a=0, b=0), quant, runtimes=list(runtimes), **settings)

    def _report(self, experiment: Experiment) -> Report:
        name, given = experiment.runtime.name, self.runtimes[experiment.runtime.name]
        if given is None:
            raise BenchmarkError("it cannot be exported")
        over_eager, self.figures = given
        floats = speedup(1, 1 / over_eager)  # of eager execution over the runtime
        if isinstance(experiment.quant, NoQuant):
            other = other_float("eager", {1: 1}, speedups=(floats,))
            return lone(data=data_of(experiment), baseline=measured(ms={1: 1}), runtime=name, others=(other,))
        made = super()._report(experiment)
        assert made.comparison is not None
        (own,) = made.comparison.speedups
        eager = other_float(
            "eager", {1: 1}, speedups=(floats,), quantized_speedups=(speedup(1, own.ratio * over_eager),)
        )
        flow = getattr(experiment.quant, "flow", None)
        return dataclasses.replace(made, runtime=name, flow=flow, others=() if name == "eager" else (eager,))


def flat(ratio: float, lost: int = 0) -> Figures:
    """Each network has this speedup over float in its runtime, and loses so many examples."""
    return lambda method, chosen, dynamic: (lost, ratio)


def test_networks_in_different_runtimes_are_compared_through_float_in_eager_execution() -> None:
    found = Runtimes({"eager": (1.0, flat(4.0)), "onnxruntime": (3.0, flat(1.5))})
    columns, row = found.found.table.columns, found.found.table.rows[0]
    assert found.answer == ("all", "static")
    assert row[columns.index("Runtime")] == "onnxruntime", "1.5 times 3, although the speedup in its runtime is less"
    assert row[columns.index("Speedup\nB1")] == "4.50x faster"
    assert "To run the answer alone: make static in onnxruntime" in found.notes
    assert "Speedup: over float in eager execution, timed in turns with each network" in found.notes
    assert found.found.metrics["best/speedup_b1"] == pytest.approx(1.5)
    assert found.found.metrics["best/speedup_over_eager_b1"] == pytest.approx(4.5)
    assert found.found.metrics["test/speedup_over_eager_b1"] == pytest.approx(4.5)
    assert found.asked[-1].evaluation == "test" and found.asked[-1].runtime.name == "onnxruntime"


def test_the_float_network_in_each_runtime_is_a_candidate() -> None:
    found = Runtimes({"eager": (1.0, flat(2.0)), "onnxruntime": (3.0, flat(0.9))})
    assert found.answer == ("none", "float")
    rows = {tuple(row[:3]): row for row in found.found.table.rows}
    columns = found.found.table.columns
    assert rows["answer: none", "float", "onnxruntime"][columns.index("Speedup\nB1")] == "3.00x faster"
    assert rows["none", "float", "eager"][columns.index("Speedup\nB1")] == ""
    assert "Answer: float in onnxruntime, +0.00 points, speedup 3.00x at batch 1, " in found.notes
    assert (
        "no quantized variant within the bound is faster at batch 1 by more than 1%, the best is static" in found.notes
    )
    assert "To run the answer alone: make none in onnxruntime" in found.notes
    assert not any(one.evaluation == "test" for one in found.asked), "nothing quantized is tested"


def test_each_method_is_searched_in_each_runtime_and_the_answer_is_the_best_of_all() -> None:
    found = Runtimes(
        {"eager": (1.0, harms(a=0, b=9)), "torchscript": (1.1, harms(a=0, b=9))},
        methods=["static", "dynamic"],
        max_accuracy_drop=0.003,
    )
    asked = {(one.quant.name, one.runtime.name, bool(getattr(one.quant, "include", ()))) for one in found.asked}
    assert asked == {
        (method, runtime, part)
        for method in ("static", "dynamic")
        for runtime in ("eager", "torchscript")
        for part in (False, True)
    }
    assert found.found.table.rows[0][:3] == ("answer: all but b", "static int8", "torchscript")
    assert "no change of a single part improves the best variant of its method and runtime" in found.notes


def test_what_a_runtime_does_not_execute_is_left_out_with_the_reason_and_its_float_network_takes_part() -> None:
    found = Runtimes({"eager": (1.0, flat(2.0)), "onnxruntime": (3.0, flat(9.0))}, Dynamic(engine=Engine.fbgemm))
    assert (
        "Not searched: dynamic in onnxruntime (runtime=onnxruntime does not execute networks of quant=dynamic with "
        "these settings)." in found.notes
    )
    assert [one.quant.name for one in found.asked if one.runtime.name == "onnxruntime"] == ["none"]
    assert found.answer == ("none", "float")


def test_a_method_whose_usual_flows_a_runtime_does_not_execute_takes_one_that_it_does() -> None:
    found = Runtimes({"eager": (1.0, flat(2.0)), "onnxruntime": (3.0, flat(2.0))}, Dynamic())
    quants = {one.runtime.name: one.quant for one in found.asked[::-1]}  # the first in each
    assert (quants["eager"], quants["onnxruntime"]) == (Dynamic(), Dynamic(flow=Flow.onnxruntime))
    assert found.found.table.rows[0][:3] == ("answer: all", "dynamic int8 onnxruntime", "onnxruntime")


def test_a_layer_is_left_to_dynamic_only_where_the_runtime_executes_both_in_one_network() -> None:
    found = Runtimes({"eager": (1.0, flat(2.0)), "onnxruntime": (3.0, flat(2.0))}, methods=["static", "dynamic"])
    mixed = {one.runtime.name for one in found.asked if isinstance(one.quant, Static) and one.quant.dynamic}
    assert mixed == {"eager"}


def test_a_runtime_that_cannot_execute_the_network_is_named_and_the_others_continue() -> None:
    found = Runtimes({"onnxruntime": None, "eager": (1.0, flat(2.0))})
    assert found.answer == ("all", "static")
    assert "Not measured: static in onnxruntime, all (it cannot be exported)." in found.notes
    assert "Not measured: float in onnxruntime (it cannot be exported)." in found.notes
    with pytest.raises(BenchmarkError, match="cannot be exported"):
        Runtimes({"onnxruntime": None})


def test_the_history_has_the_runtime_and_the_speedup_that_is_compared() -> None:
    found = Runtimes({"eager": (1.0, flat(4.0)), "onnxruntime": (3.0, flat(1.5))})
    header, *lines = found.found.lines["history"]
    rows = [dict(zip(map(str, header), line, strict=True)) for line in lines]
    assert [(one["quantized"], one["runtime"]) for one in rows[:4]] == [
        ("none", "eager"),
        ("none", "onnxruntime"),
        ("all", "eager"),
        ("all", "onnxruntime"),
    ]
    assert [one["speedup_over_eager_b1"] for one in rows[:4]] == pytest.approx([1.0, 3.0, 4.0, 4.5])
    assert [one["speedup_b1"] for one in rows[:4]] == pytest.approx([1.0, 1.0, 4.0, 1.5])
    assert rows[-1]["best_step"] == 3


def test_with_one_runtime_nothing_names_it() -> None:
    found = Searched("ab", harms(a=0, b=0), runtimes=["eager"])
    header, *_ = found.found.lines["history"]
    assert "Runtime" not in found.found.table.columns
    assert "runtime" not in header
    assert not any("over_eager" in name for name in (*header, *found.found.metrics))
    assert "eager" not in found.notes.replace("make static in eager", "")


def test_the_legend_of_the_pictures_names_method_and_runtime() -> None:
    made = comparison(speedups=[speedup(64, 1.5)])
    eager = other_float("eager", {64: 1}, speedups=(speedup(64, 0.5),), quantized_speedups=(speedup(64, 3.0),))
    runs = [report(comparison=made), report(comparison=made, runtime="onnxruntime", others=(eager,))]
    floats, tried = [], []
    for run in runs:
        floats.append(Candidate.unquantized(dataclasses.replace(run, baseline=measured(ms={64: 1})), over_eager=True))
        tried.append(Candidate.measured(Choice("all", "static", ("a",), runtime=run.runtime), run, over_eager=True))
    goal = Goal(Search().bound[0], 0.01, "latency", 64, 0.01)
    runtimes = ("eager", "onnxruntime")
    found = SearchReport(goal, tuple(floats), tuple(tried), {}, ended="local", runtimes=runtimes)
    for figure in (latency_figure(found), size_figure(found)):
        (axes,) = figure.axes
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()][:4] == [
            *("float in eager", "float in onnxruntime", "static in eager", "static in onnxruntime")
        ]
        looks = {(line.get_color(), line.get_marker()) for line in legend.get_lines()[:4]}
        assert len(looks) == 4, "all can be told apart"


# Bad inputs


def test_settings_that_no_runtime_executes_are_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(quant=WeightOnly(), study=Search(runtimes=["onnxruntime", "compiled"]))
    (fault,) = error.value.faults
    assert fault.startswith(
        "study=search needs a runtime that executes one of its methods, got weight_only in onnxruntime, weight_only "
        "in compiled (runtime=onnxruntime does not execute networks of quant.flow=torchao; runtime=compiled makes "
    )
    assert fault.endswith("choose others with study.runtimes and study.methods")


def test_names_that_are_no_runtimes_or_given_twice_and_too_few_variants_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"study\.runtimes must name runtimes \(eager, .*\), got 'onnx'"):
        Search(runtimes=["onnx"])
    with pytest.raises(ConfigError, match=r"study\.runtimes must name each runtime once, got \[eager,eager\]"):
        Search(runtimes=["eager", "eager"])
    with pytest.raises(ConfigError, match=r"study\.max_variants must be at least 1 for each of the 2 pairs .* got 1"):
        Experiment(study=Search(runtimes=["eager", "onnxruntime"], max_variants=1))


def test_missing_packages_are_named_before_anything_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = util.find_spec
    monkeypatch.setattr("quantexp.system.extras.find_spec", lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(
        ConfigError, match=r"runtime=onnxruntime needs .* onnxscript is not installed; run: pip install"
    ):
        search.find(Search(runtimes=["eager", "onnxruntime"]), Experiment(), str)


# A real search


@pytest.mark.slow
def test_a_search_over_two_runtimes_records_runs_in_both_and_a_command_that_runs_its_answer(
    workdir: Path, quantexp: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    settings = ["data=sample", "model.hidden=[64]", "train.epochs=2", "batch_size=8", "benchmark.placements=2"]
    settings += ["benchmark.seconds=0.05", "study.max_accuracy_drop=0.5", "study.layers=[layers.2]"]
    done = quantexp("study=search", "study.runtimes=[eager,onnxruntime]", *settings)
    assert done.returncode == 0, done.stderr
    store = open_store(Local())
    runs = list(store.search(""))
    (study,) = (run for run in runs if run.params.get("study") == "search")
    finished = [run for run in runs if run is not study and run.status == "FINISHED"]
    made = [restore(read_finished_run(store, run.run_id)) for run in finished]
    assert {(one.runtime.name, one.quant.name) for one in made} == {("eager", "static"), ("onnxruntime", "static")}
    assert {run.params["runtime"] for run in finished} == {"eager", "onnxruntime"}
    lines = str(store.client.get_run(study.run_id).data.tags["mlflow.note.content"]).splitlines()
    assert "Runtime" in lines[0]
    floats = [line for line in lines if line.startswith(("| none |", "| answer: none |"))]
    assert len(floats) == 2, "float in each runtime"
    (command,) = (line.partition("alone: ")[2] for line in lines if "To run the answer alone" in line)
    arguments = shlex.split(command)[3:]
    answer = lines[2].split(" | ")[2]
    assert answer in ("eager", "onnxruntime")
    assert ("runtime=onnxruntime" in arguments) == (answer == "onnxruntime")
    alone = quantexp(*arguments)
    assert alone.returncode == 0, alone.stderr

"""`study=compatibility`: what it tries, what its table says, and what a worker survives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from quantexp.config import (
    RUNTIMES,
    Compatibility,
    CustomModel,
    DataSource,
    Dynamic,
    Engine,
    Experiment,
    Lenet5,
    Local,
    Mnist,
    NoQuant,
    Single,
    Static,
    Train,
)
from quantexp.mission import load, run
from quantexp.reports.findings import Findings
from quantexp.results.compatibility import COMPATIBILITY_FILE, Cell, Outcome, Word, parse_compatibility
from quantexp.runner import report as reporting
from quantexp.runner.described import described, restored
from quantexp.runner.pool import Pool
from quantexp.runner.study import run_study
from quantexp.runner.tracked import Request
from quantexp.runner.worker import Setup
from quantexp.studies.compatibility import study as conducting
from quantexp.studies.compatibility.cells import cells, in_float, variant
from quantexp.studies.compatibility.study import Outcomes, Trials, find
from quantexp.system.errors import CheckError, QuantexpError
from quantexp.tracking.store import open_store
from quantexp.training.baseline import trained
from quantexp.training.brief import BriefBaseline

FLOAT = in_float("eager")
DYNAMIC = Cell("dynamic", "eager", "int8", "fbgemm")
STATIC = Cell("static", "fx", "int8", "fbgemm")
PT2E = Cell("static", "pt2e", "int8", None)
QAT = Cell("qat", "fx", "int8", "fbgemm")
CHOICES = {"task": "mnist", "model": "mlp", "quant": "static", "study": "compatibility"} | {
    group: "default" for group in ("runtime", "train", "benchmark", "tracking")
}
REFERENCE = Outcome(Word.works, mac_share=1.0, size_mb=1.0, weights="random", key="k", examples=100)
HOSTILE = '''
import os, time
import torch
from torch import nn


class Hostile(nn.Module):
    """Does what the argument says."""

    def __init__(self, inputs, classes, does=""):
        super().__init__()
        self.layer, self.does = nn.Linear(inputs, classes), does

    def forward(self, x):
        if self.does == "abort":
            os.abort()
        if self.does == "exit":
            os._exit(0)
        if self.does == "hang":
            time.sleep(3600)
        if self.does == "memory":
            self.kept = torch.ones(2 * 10**9, dtype=torch.uint8)
            time.sleep(3600)
        if self.does == "raise":
            raise SystemError("of the network itself")
        return self.layer(x)
'''


def planted(
    outcomes: dict[Cell, Outcome],
    experiment: Experiment,
    reference: Outcome = REFERENCE,
    runtimes: tuple[str, ...] = ("eager",),
) -> Findings:
    """Run the study with these outcomes; everything else is refused."""
    trials = find(
        Compatibility(runtimes=list(runtimes)),
        experiment,
        lambda variant: f"run {variant.quant.name} {variant.precision} {variant.runtime.name}",
    )
    yielded: Trials = next(trials)
    assert [trial.cell for trial in yielded] == [in_float(runtime) for runtime in runtimes]
    yielded = trials.send({trial.cell: outcomes.get(trial.cell, reference) for trial in yielded})
    refused = Outcome(Word.refused, "not for this network")
    answer: Outcomes = {trial.cell: outcomes.get(trial.cell, refused) for trial in yielded}
    with pytest.raises(StopIteration) as end:
        trials.send(answer)
    found: Findings = end.value.value
    return found


def works(share: float, sqnr: float = 40.0, size_mb: float = 0.3) -> Outcome:
    return Outcome(Word.works, mac_share=share, size_mb=size_mb, output_sqnr_db=sqnr)


# -- what is tried, and what is said ----------------------------------------------------------------------


def test_the_command_of_the_row_with_the_most_int8_macs_that_trains_nothing_is_advised(
    sample: Callable[..., Experiment],
) -> None:
    found = planted({DYNAMIC: works(0.4, 60.0), STATIC: works(1.0, 35.0), QAT: works(1.0, 50.0)}, sample())
    assert found.table.notes[0].endswith(": run static int8 eager")
    assert found.metrics["works"] == 4


def test_without_int8_the_smallest_network_is_advised_and_without_any_nothing(
    sample: Callable[..., Experiment],
) -> None:
    half = Cell("none", None, "bf16", None)
    found = planted({half: works(1.0, size_mb=0.5)}, sample())
    assert found.table.notes[0].endswith("the smallest network that works): run none bf16 eager")
    assert "Nothing quantized works" in planted({}, sample()).table.notes[0]


def test_each_method_shows_first_what_works_and_every_reason_once_below_the_table(
    sample: Callable[..., Experiment],
) -> None:
    wrong = Outcome(Word.wrong, "noise", check="kernels")
    found = planted({PT2E: works(1.0), STATIC: wrong, DYNAMIC: Outcome(Word.crashed, "SIGABRT")}, sample())
    of_static = [row for row in found.table.rows if row[1:3] in {("pt2e", "int8"), ("fx", "int8")}]
    results = [row[4] for row in found.table.rows]
    assert results.index("works") < results.index("wrong[3]")
    assert [note for note in found.table.notes if note.startswith("[")] == [
        "[1] not for this network",
        "[2] SIGABRT",
        "[3] self-check kernels: noise",
    ]
    assert of_static
    assert parse_compatibility(found.texts[COMPATIBILITY_FILE].encode()).rows[0].cell == FLOAT


def test_engines_with_equal_rows_share_one(sample: Callable[..., Experiment]) -> None:
    every = {row[3] for row in planted({}, sample()).table.rows if row[1:3] == ("fx", "int8")}
    assert every == {"all"}


def test_a_float_network_that_does_not_run_ends_the_study_with_its_reason(sample: Callable[..., Experiment]) -> None:
    with pytest.raises(QuantexpError, match="crashed: SIGSEGV"):
        planted({}, sample(), Outcome(Word.crashed, "SIGSEGV"))


def test_a_runtime_is_tried_with_what_it_executes_and_with_nothing_where_the_float_network_does_not_run(
    sample: Callable[..., Experiment],
) -> None:
    exported = replace(PT2E, runtime="onnxruntime")
    outcomes = {
        exported: works(1.0, 35.0),
        replace(PT2E, runtime="compiled"): works(1.0, 60.0),
        DYNAMIC: works(0.5, 60.0),
        in_float("aot"): Outcome(Word.refused, "no compiler"),
    }
    found = planted(outcomes, sample(), runtimes=("eager", "onnxruntime", "compiled", "aot"))
    assert found.table.columns[4] == "runtime"
    assert "runtime" not in planted(outcomes, sample()).table.columns
    assert found.table.notes[0].endswith("run static int8 onnxruntime"), "of equal ones, the runtime named first"
    rows = [line for line in found.lines["rows"] if line[4] == "onnxruntime"]
    assert {line[:3] for line in rows} == {
        ("none", "", "fp32"),
        ("static", "pt2e", "int8"),
        ("static", "onnxruntime", "int8"),
        ("dynamic", "onnxruntime", "int8"),
        ("qat", "pt2e", "int8"),
    }
    aot = [line for line in found.lines["rows"] if line[4] == "aot"][1:]
    assert aot
    assert {(line[5], line[-2]) for line in aot} == {("refused", "the float network in aot: no compiler")}


def test_every_cell_in_another_runtime_is_a_run_that_the_settings_allow(sample: Callable[..., Experiment]) -> None:
    others = [runtime.name for runtime in RUNTIMES[1:]]
    every = list(cells([Engine.x86, Engine.fbgemm], others))
    assert {cell.runtime for cell in every} == set(others)
    for cell in every:
        made = variant(sample(), cell)
        assert (made.runtime.name, made.quant.name, made.precision) == (cell.runtime, cell.method, cell.precision)


def test_settings_of_quant_count_for_its_own_method_only(sample: Callable[..., Experiment]) -> None:
    experiment = sample(quant=Static(exclude=["layers.0"], calibration_examples=64))
    quants = [variant(experiment, cell, examples=50).quant for cell in (STATIC, DYNAMIC)]
    assert isinstance(quants[0], Static)
    assert isinstance(quants[1], Dynamic)
    assert (quants[0].exclude, quants[0].calibration_examples, quants[1].exclude) == (["layers.0"], 50, [])


def test_what_the_settings_exclude_is_refused_without_a_trial(sample: Callable[..., Experiment]) -> None:
    found = planted({}, sample(data=DataSource.synthetic))
    rows = [line for line in found.lines["rows"] if line[0] == "qat"]
    assert rows
    assert all("data=synthetic has no labels to train on" in str(line[-2]) for line in rows)


def test_an_experiment_reaches_a_worker_as_it_was(sample: Callable[..., Experiment]) -> None:
    experiment = sample(model=CustomModel(target="a.B", arguments={"width": 3}), quant=Dynamic(engine="fbgemm"))  # type: ignore[arg-type]
    again = restored(json.loads(json.dumps(described(experiment))))
    assert again == replace(experiment, tracking=again.tracking)


# -- the float network --------------------------------------------------------------------------------------


def test_trained_weights_are_taken_from_the_cache_and_otherwise_nothing_is_trained(
    tmp_path: Path, sample: Callable[..., Experiment]
) -> None:
    experiment = sample(cache_dir=str(tmp_path), task=Mnist(hidden=[8]), train=Train(epochs=1, threads=1))
    data = load(experiment)
    assert BriefBaseline(experiment, data).weights == "random"
    first = trained(experiment, data)
    again = BriefBaseline(experiment, data)
    assert again.weights == "trained"
    before, after = first.model.state_dict(), again.model.state_dict()
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.slow
def test_what_is_trained_for_a_few_steps_is_not_taken_for_the_whole_training(
    tmp_path: Path, sample: Callable[..., Experiment]
) -> None:
    experiment = sample(cache_dir=str(tmp_path), quant=NoQuant(), train=Train(threads=1))
    setup = Setup(described(experiment), 60, 4, None)
    with Pool(setup, 1) as pool:
        ((_, outcome),) = pool.outcomes([variant(experiment, QAT)])
    assert outcome.word is Word.works, outcome.reason
    assert not list(tmp_path.glob("**/*.safetensors"))


# -- workers ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_crash_a_hang_and_too_much_memory_are_outcomes_and_the_next_experiment_still_runs(
    workdir: Path, sample: Callable[..., Experiment]
) -> None:
    (workdir / "hostile.py").write_text(HOSTILE, encoding="utf-8")
    kinds = ("abort", "exit", "memory", "hang", "raise", "")
    experiments = [
        sample(quant=NoQuant(), model=CustomModel(target="hostile.Hostile", arguments={"does": does})) for does in kinds
    ]
    with Pool(Setup(described(sample(quant=NoQuant())), 8.0, 1.0, None), 2) as pool:
        found = dict(pool.outcomes(experiments))
    outcomes = {does: found[at] for at, does in enumerate(kinds)}
    assert {does: outcome.word for does, outcome in outcomes.items()} == {
        **dict.fromkeys(("abort", "exit", "memory"), Word.crashed),
        "hang": Word.timeout,
        "raise": Word.refused,
        "": Word.works,
    }
    assert "SIGABRT" in outcomes["abort"].reason
    assert outcomes["memory"].reason == "it needs more than 1.0 GB of memory"
    assert "of the network itself" in outcomes["raise"].reason


@pytest.mark.slow
def test_a_worker_process_that_cannot_start_is_an_error_with_its_reason(sample: Callable[..., Experiment]) -> None:
    setup = replace(Setup(described(sample()), 8.0, 1.0, None), experiment={"task": {"name": "none"}})
    with (
        pytest.raises(QuantexpError, match=r"the process that starts the workers ended: .*KeyError"),
        Pool(setup, 1) as pool,
    ):
        list(pool.outcomes([sample()]))


# -- the whole study --------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the study try three rows only."""
    weight_only = Cell("weight_only", "torchao", "int4", None)

    def three(*arguments: object) -> Iterator[Cell]:
        yield from (DYNAMIC, weight_only, STATIC)

    monkeypatch.setattr(conducting, "cells", three)


def done(experiment: Experiment, overrides: list[str]) -> Findings:
    """Do what the command does with an experiment that asks for the study."""
    yaml = OmegaConf.to_yaml(OmegaConf.structured(experiment))
    return run_study(experiment, Request(CHOICES, overrides, yaml))


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_the_study_is_recorded_resumed_and_reported(
    workdir: Path,
    sample: Callable[..., Experiment],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    experiment = sample(study=Compatibility(), quant=Static(), task=Mnist(hidden=[8]))
    overrides = ["data=sample", "study=compatibility"]
    with caplog.at_level("INFO"):
        first = done(experiment, overrides)
        assert "tried before" not in caplog.text
        again = done(experiment, overrides)
    assert "3 of 3 rows were tried before" in caplog.text
    assert again.table == first.table
    (recorded,) = list(open_store(Local()).search(""))
    assert recorded.metrics["works"] == 3
    assert "quant" not in recorded.params
    reporting.report(recorded.run_id, None, "quantexp", workdir / "report")
    assert again.table.notes[0] in " ".join(capsys.readouterr().out.split())
    assert (workdir / "report" / "report.html").is_file()
    assert len((workdir / "report" / "rows.csv").read_text(encoding="utf-8").splitlines()) == 1 + 4


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")
@pytest.mark.parametrize(
    ("data", "third"), [(DataSource.sample, 0), pytest.param(DataSource.synthetic, 1, marks=pytest.mark.exhaustive)]
)
def test_a_row_of_lenet5_is_what_a_run_of_it_gives(
    workdir: Path, sample: Callable[..., Experiment], data: DataSource, third: int
) -> None:
    experiment = sample(study=Compatibility(), quant=Static(), model=Lenet5(), task=Mnist(crop=32), data=data)
    found = parse_compatibility(done(experiment, []).texts[COMPATIBILITY_FILE].encode())
    assert len(found.rows) > 20
    for row in found.rows[third::3]:
        word, share = Word.works, None
        try:
            evidence = run(variant(replace(experiment, study=Single()), row.cell)).report.result.evidence
            share = evidence.mac_share(row.cell.precision)
        except CheckError:
            word = Word.wrong
        except QuantexpError:
            word = Word.refused
        except Exception:  # what a run does not expect either
            word = Word.crashed
        assert (row.cell, row.outcome.word, row.outcome.mac_share) == (row.cell, word, share), row.outcome.reason

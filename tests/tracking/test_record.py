"""One run in MLflow: how it ends, what it is called, and what is written of it."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from quantexp.config import Amp, DataSource, Dynamic, Experiment, Mlp, Mnist, NoQuant, Qat, Quant, Sst2, Train
from quantexp.config.tracking import Local
from quantexp.mission import run
from quantexp.results import parse_report
from quantexp.results.metrics import metrics
from quantexp.runner.identity import Identity
from quantexp.runner.labels import parameters, run_name
from quantexp.system.errors import TrackingError, TrainingError
from quantexp.tracking.record import Recorder, recording
from quantexp.tracking.store import Store, open_store
from quantexp.tracking.views import COLUMNS, save_view

CHOICES = {
    "task": "mnist",
    "model": "mlp",
    "quant": "static",
    "train": "default",
    "benchmark": "paired",
    "tracking": "local",
}


@pytest.fixture
def store(workdir: Path) -> Store:
    """The store of a working directory of its own."""
    return open_store(Local())


def stopped_by(store: Store, error: BaseException) -> str:
    """Let `error` happen inside a run; return the id of that run."""
    with pytest.raises(type(error)), recording(store, "stopped", {}, "") as recorder:
        raise error
    return recorder.run_id


# -- how a run ends --------------------------------------------------------------------------------------


def test_a_run_is_running_until_it_is_finished(store: Store) -> None:
    with recording(store, "fine", {"seed": 0}, "seed: 0\n") as recorder:
        assert store.client.get_run(recorder.run_id).info.status == "RUNNING"
    ended = store.client.get_run(recorder.run_id)
    assert (ended.info.status, ended.info.run_name) == ("FINISHED", "fine")
    assert ended.info.end_time >= ended.info.start_time
    assert "error" not in ended.data.tags


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (TrainingError("the loss became nan"), "FAILED", "TrainingError: the loss became nan"),
        (ZeroDivisionError("division by zero"), "FAILED", "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (SystemExit(1), "KILLED", "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_ends_a_run_is_its_status_and_tag(store: Store, error: BaseException, status: str, told: str) -> None:
    ended = store.client.get_run(stopped_by(store, error))
    assert (ended.info.status, ended.data.tags["error"]) == (status, told)
    assert ended.info.end_time is not None


def test_an_error_longer_than_a_tag_is_cut_and_the_run_closed(store: Store) -> None:
    ended = store.client.get_run(stopped_by(store, TrainingError("x" * 100_000)))
    assert ended.info.status == "FAILED"
    assert ended.data.tags["error"].startswith("TrainingError: xxx")


def test_a_run_that_fails_while_the_store_is_gone_still_raises_its_own_error(store: Store) -> None:
    with pytest.raises(TrainingError, match="the first error"), recording(store, "gone", {}, "") as recorder:
        store.client.delete_run(recorder.run_id)
        store.client.delete_experiment(store.experiment_id)
        raise TrainingError("the first error")


def test_a_run_in_an_experiment_that_does_not_exist_cannot_be_started(store: Store) -> None:
    nowhere = Store(store.client, store.uri, "404")
    with (
        pytest.raises(TrackingError, match=r"no run can be started in sqlite:///.*404"),
        recording(nowhere, "n", {}, ""),
    ):
        pytest.fail("nothing may run")


# -- what it is called -----------------------------------------------------------------------------------


def named(*overrides: str, quant: Quant | None = None, **parts: object) -> str:
    experiment = Experiment(quant=quant or Dynamic(), **parts)  # type: ignore[arg-type]
    return run_name(experiment, {**CHOICES, "quant": experiment.quant.name}, overrides)


def test_a_name_begins_with_the_axes() -> None:
    assert named() == "mnist-dynamic-int8-s0"
    assert named(quant=Amp(), seed=7, data=DataSource.sample) == "mnist-sample-amp-bf16-s7"


def test_overrides_that_shape_a_result_tell_names_apart() -> None:
    asked = [
        ["quant.engine=x86"],
        ["quant.engine=onednn"],
        ["train.epochs=1"],
        ["train.epochs=2"],
        ["batch_size=8"],
        ["benchmark=lab"],
        ["quant.engine=x86", "train.epochs=1"],
        ["+train.epochs=3"],
        [],
    ]
    names = [named(*overrides) for overrides in asked]
    assert len(set(names)) == len(asked)
    assert names[0] == "mnist-dynamic-int8-s0 quant.engine=x86"


def test_what_is_in_the_axes_or_tells_no_results_apart_is_not_repeated() -> None:
    silent = ("task=mnist", "quant=dynamic", "precision=int8", "data=full", "seed=0")
    elsewhere = ("data_dir=/data", "cache_dir=/cache", "tracking=server", "tracking.uri=http://u:secret@h", "hydra.x=1")
    assert named(*silent, *elsewhere) == named()


# -- its parameters --------------------------------------------------------------------------------------


def test_parameters_are_flat_with_the_chosen_names_under_their_groups() -> None:
    experiment = Experiment(task=Sst2(), quant=Qat(epochs=3), train=Train(epochs=4))
    told = parameters(experiment, {**CHOICES, "task": "sst2", "quant": "qat", "benchmark": "quick"})
    assert {name: told[name] for name in ("task", "quant", "benchmark", "model")} == {
        "task": "sst2",
        "quant": "qat",
        "benchmark": "quick",
        "model": "mlp",
    }
    assert (told["train.epochs"], told["quant.epochs"]) == (4, 3)
    assert (told["quant.engine"], told["train.optimizer"]) == ("x86", "adam")  # names, not Enum members
    assert (told["precision"], told["seed"], told["batch_size"]) == ("int8", 0, [1, 64])
    assert told["model.hidden"] == told["task.hidden"] == [256, 256, 256]
    assert not [name for name, value in told.items() if isinstance(value, dict)]


def test_parameters_and_configuration_are_written_when_a_run_starts(store: Store) -> None:
    told = {"train.epochs": 2, "batch_size": [1, 64], "data_dir": None}
    with recording(store, "started", told, "# python -m quantexp\nseed: 0\n") as recorder:
        started = store.client.get_run(recorder.run_id)
    assert started.data.params == {"train.epochs": "2", "batch_size": "[1, 64]", "data_dir": "None"}
    (path,) = Path.cwd().glob(f"mlartifacts/{recorder.run_id}/artifacts/config.yaml")
    assert path.read_text() == "# python -m quantexp\nseed: 0\n"


def test_a_parameter_longer_than_mlflow_takes_is_cut(store: Store) -> None:
    with recording(store, "long", {"model.hidden": [8] * 5000}, "") as recorder:
        pass
    kept = store.client.get_run(recorder.run_id).data.params["model.hidden"]
    assert len(kept) == 6000
    assert json.dumps([8] * 5000).startswith(kept)


# -- what is written of a result -------------------------------------------------------------------------


@pytest.mark.parametrize("quant", [Dynamic(), NoQuant()], ids=["two-models", "one-model"])
def test_all_of_a_result_is_recorded(store: Store, sample: Callable[..., Experiment], quant: Quant) -> None:
    outcome = run(sample(task=Mnist(hidden=[8]), model=Mlp(hidden=[8]), quant=quant))
    with recording(store, "whole", {}, "") as recorder:
        recorder.record(outcome, Identity.of(Experiment(), outcome.report.data.fingerprint))
    kept = store.client.get_run(recorder.run_id)
    report = outcome.report
    expected = {name: round(value, 6) for name, value in metrics(report).items()}
    assert {name: kept.data.metrics[name] for name in expected} == expected
    assert {name.partition("/")[0] for name in kept.data.metrics.keys() - expected.keys()} == {"train"}
    assert kept.data.tags["data_fingerprint"] == report.data.fingerprint

    folder = Path.cwd() / "mlartifacts" / recorder.run_id / "artifacts"
    assert parse_report((folder / "report.json").read_bytes()) == report
    with (folder / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    models = [("float", report.baseline)] + ([("dynamic int8", report.quantized)] if report.quantized else [])
    for name, measured in models:
        for one in measured.latency:
            of_one = [row for row in rows if (row["model"], row["batch_size"]) == (name, str(one.batch_size))]
            assert [float(row["ms_per_call"]) for row in of_one] == list(one.samples_ms)  # every sample, in order
            rounds = len(one.samples_ms) // one.placements
            assert [(row["placement"], row["round"]) for row in of_one] == [
                (str(placement), str(number)) for placement in range(one.placements) for number in range(rounds)
            ]
    assert len(rows) == sum(len(one.samples_ms) for _, measured in models for one in measured.latency)

    with (folder / "confusion.csv").open(encoding="utf-8", newline="") as file:
        confusion = list(csv.DictReader(file))
    for name, measured in models:
        of_one = [row for row in confusion if row["model"] == name]
        assert sum(int(row["examples"]) for row in of_one) == report.data.test
        right = sum(int(row["examples"]) for row in of_one if row["label"] == row["predicted"])
        assert right == measured.accuracy.correct
    assert {"layers.csv", "operators.csv", "time.csv", "classes.csv"} <= {path.name for path in folder.iterdir()}
    machine = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert {"cpu", "cores", "packages", "load_average", "threads"} <= machine.keys()
    assert {"size.png", "time.png"} <= {path.name for path in (folder / "pictures").iterdir()}
    verdicts = {name for name in kept.data.tags if name.startswith("verdict")}
    asked = {"verdict_accuracy", "verdict_b1", "verdict_b8"} if report.comparison else set()
    assert verdicts == asked
    assert ("unstable" in kept.data.tags) == bool(report.unstable)


def test_a_result_that_cannot_be_written_is_told_with_the_name_of_the_run(
    store: Store, sample: Callable[..., Experiment]
) -> None:
    outcome = run(sample(task=Mnist(hidden=[8]), model=Mlp(hidden=[8]), quant=NoQuant()))
    nowhere = Recorder(store, "0123456789abcdef0123456789abcdef", "lost")
    with pytest.raises(TrackingError, match="the run lost cannot be recorded"):
        nowhere.record(outcome, Identity.of(Experiment(), outcome.report.data.fingerprint))


# -- where to look ---------------------------------------------------------------------------------------


def test_the_place_of_a_run_names_the_command_that_shows_it(store: Store, tmp_path: Path) -> None:
    here = Recorder(store, "abc", "mine").where()
    assert here[0] == f"recorded: mine in sqlite:///{tmp_path}/mlflow.db"
    assert here[1].startswith("  type mlflow ui here, then open http://127.0.0.1:5000/")
    assert here[1].endswith(f"#/experiments/{store.experiment_id}/runs/abc?workflowType=machine_learning")
    elsewhere = Recorder(Store(store.client, "sqlite:////data/runs.db", "1"), "abc", "mine").where()
    assert "mlflow ui --backend-store-uri sqlite:////data/runs.db" in elsewhere[1]


def test_the_place_of_a_run_on_a_server_hides_the_password(store: Store) -> None:
    guarded = Recorder(Store(store.client, "http://user:secret@host:5000/", "1"), "abc", "mine").where()
    assert "http://user:***@host:5000" in guarded[0]


def test_no_link_to_a_run_holds_the_password(store: Store) -> None:
    guarded = Recorder(Store(store.client, "http://user:secret@host:5000/", "1"), "abc", "mine").where()
    assert "secret" not in "\n".join(guarded)


def test_the_view_shows_what_runs_are_told_apart_by(store: Store) -> None:
    save_view(store)
    tag = "mlflow.sharedViewState.quantexp"
    saved = store.client.get_experiment(store.experiment_id).tags[tag]
    assert json.loads(saved)["name"] == "quantexp"
    assert {"params.`quant`", "metrics.`accuracy`", "metrics.`size_mb`", "metrics.`latency_b1_ms`"} <= set(COLUMNS)
    save_view(store)
    assert store.client.get_experiment(store.experiment_id).tags[tag] == saved  # the second one leaves it alone


def test_a_view_that_cannot_be_written_is_no_failure(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = Store(store.client, store.uri, "404")
    with caplog.at_level(logging.DEBUG, "quantexp"):
        save_view(nowhere)
    (record,) = [record for record in caplog.records if record.name == "quantexp.tracking.views"]
    assert record.levelno == logging.DEBUG  # nobody is disturbed by it
    assert "no saved view" in record.getMessage()
    assert "404" in record.getMessage()

"""A recorded run is made again and compared; what was changed since it was made is told."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from quantexp import mission
from quantexp import reproduce as command
from quantexp.config import Experiment, Mlp, Mnist, Paired, Static
from quantexp.config.tracking import Local
from quantexp.runner import reproduce
from quantexp.runner.finished import read_finished_run
from quantexp.runner.single import run_single
from quantexp.runner.tracked import Request
from quantexp.system.errors import TrackingError
from quantexp.tracking.names import IDENTITY, REPRODUCES
from quantexp.tracking.store import Store, open_store

CHOICES = dict.fromkeys(("train",), "default") | {
    "task": "mnist",
    "model": "mlp",
    "quant": "static",
    "benchmark": "quick",
    "tracking": "local",
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, store_template: Path) -> tuple[Path, str]:
    """A folder with a store in it that holds one run, and the run's id."""
    folder = tmp_path_factory.mktemp("recorded")
    shutil.copy(store_template, folder / "mlflow.db")
    before = Path.cwd()
    os.chdir(folder)
    try:
        experiment = Experiment(
            task=Mnist(hidden=[16]),
            model=Mlp(hidden=[16]),
            quant=Static(calibration_examples=64),
            data="sample",  # type: ignore[arg-type]  # as it is composed
            cache_dir=str(folder / "cache"),
            benchmark=Paired(placements=2, seconds=0.02),
            batch_size=[1, 8],
        )
        run_single(
            experiment, Request(CHOICES, ["task.hidden=[16]"], OmegaConf.to_yaml(OmegaConf.structured(experiment)))
        )
        (run,) = _client(folder).search_runs([_client(folder).get_experiment_by_name("quantexp").experiment_id])
    finally:
        os.chdir(before)
    return folder, run.info.run_id


@pytest.fixture
def run_id(recorded: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run, in a copy of its store that may be changed; its folder is entered."""
    folder, run_id = recorded
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    client = _client(tmp_path)
    uri = (tmp_path / "mlartifacts").as_uri()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (f"{uri}/{run_id}/artifacts",))
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'quantexp'", (uri,))
    assert client.get_run(run_id).info.artifact_uri == f"{uri}/{run_id}/artifacts"
    monkeypatch.chdir(tmp_path)
    return run_id


def _client(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def store() -> Store:
    return open_store(Local())


def artifact(run_id: str, name: str) -> Path:
    return Path("mlartifacts") / run_id / "artifacts" / name


# -- a run that is as it was -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_trained_again_and_comes_out_the_same(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    reproduce.reproduce(run_id, Local())  # its speedups on so small a model and so short a time may differ
    shown = capsys.readouterr().out
    for model in ("float fp32", "static int8"):
        (line,) = [line for line in shown.splitlines() if line.strip().startswith(f"Accuracy, {model}")]
        assert line.rstrip().endswith("equal")
    runs = {run.run_id: run for run in store().search("params.quant != ''")}
    assert len(runs) == 2
    (again,) = [run for name, run in runs.items() if name != run_id]
    assert again.tags[REPRODUCES] == run_id
    assert again.tags[IDENTITY] == runs[run_id].tags[IDENTITY]
    assert again.metrics["accuracy"] == runs[run_id].metrics["accuracy"]


def test_the_experiment_is_composed_from_the_record(run_id: str) -> None:
    experiment = reproduce.restore(read_finished_run(store(), run_id))
    assert experiment.quant == Static(calibration_examples=64)
    assert experiment.model == Mlp(hidden=[16])
    assert experiment.benchmark == Paired(placements=2, seconds=0.02)
    assert experiment.batch_size == [1, 8]
    assert str(experiment.cache_dir).endswith("cache")  # where data may lie


# -- a run that was changed since ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("calibration_examples: 64", "calibration_examples: 65", r"config\.yaml quant\.calibration_examples says 65"),
        ("seed: 0", "seed: 1", r"config\.yaml seed says 1"),
        ("epochs: 2", "epochs: 200", r"config\.yaml train\.epochs says 200"),
        ("epochs: 2", "epochs: -2", "cannot be composed"),
        ("seed: 0", "- not a setting", "cannot be composed|damaged"),
    ],
)
def test_a_configuration_that_was_changed_is_told(run_id: str, before: str, after: str, told: str) -> None:
    path = artifact(run_id, "config.yaml")
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(TrackingError, match=told):
        reproduce.reproduce(run_id, Local())
    assert len(list(store().search("params.quant != ''"))) == 1  # nothing was run


def test_an_identity_a_parameter_and_a_metric_that_were_changed_are_all_told(run_id: str) -> None:
    path = artifact(run_id, "identity.json")
    identity = json.loads(path.read_text())
    identity["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(identity))
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute("UPDATE params SET value = '3' WHERE key = 'train.epochs'")
        connection.execute("UPDATE latest_metrics SET value = 0.999 WHERE key = 'accuracy'")
    with pytest.raises(TrackingError) as error:
        reproduce.restore(read_finished_run(store(), run_id))
    told = str(error.value)
    assert "identity.json does not match the tag quantexp.identity" in told
    assert "the parameter train.epochs says '3', the identity '2'" in told
    assert "the metric accuracy says 0.999, report.json says" in told


def test_data_that_are_not_those_of_then_are_told(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mission, "load", _other_data(mission.load))
    with pytest.raises(TrackingError, match=r"used data with fingerprint [0-9a-f]{16}, the data now have eeee"):
        reproduce.reproduce(run_id, Local())


def _other_data(load: Callable[[Experiment], Any]) -> Callable[[Experiment], Any]:
    return lambda experiment: replace(load(experiment), fingerprint="e" * 64)


def test_another_machine_or_version_is_told_and_no_obstacle(run_id: str) -> None:
    record = read_finished_run(store(), run_id)
    elsewhere = replace(record.identity, host="elsewhere", versions={**record.identity.versions, "torch": "1.0"})
    told = list(reproduce._differences(elsewhere, reproduce.restore(record)))
    assert [line.partition(",")[0] for line in told] == ["versions: torch was 1.0", "host: was elsewhere"]


def test_a_run_that_is_not_there_or_not_finished_is_told(run_id: str) -> None:
    with pytest.raises(TrackingError, match=r"has no run 'nothing'"):
        read_finished_run(store(), "nothing")
    unfinished = store().client.create_run(store().experiment_id, run_name="begun").info.run_id
    with pytest.raises(TrackingError, match=rf"{unfinished} \(begun\) is RUNNING"):
        read_finished_run(store(), unfinished)


def test_the_command_tells_in_words_and_ends_with_1(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(["0" * 32])
    assert end.value.code == 1
    assert "quantexp: " in capsys.readouterr().err


def test_data_in_the_cache_of_then_are_found_there(tmp_path: Path) -> None:
    experiment = Experiment(cache_dir=str(tmp_path), data_dir=str(tmp_path / "nowhere"))
    assert reproduce._data_dir(experiment, None) == str(tmp_path / "nowhere")
    assert reproduce._data_dir(experiment, "/asked") == "/asked"
    raw = tmp_path / "data" / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte.gz").touch()
    assert reproduce._data_dir(replace(experiment, data_dir=None), None) == str(tmp_path / "data")

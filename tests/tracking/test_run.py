"""One run in MLflow: how it ends, what is written of it, and where to look at it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from quantexp.config.tracking import Local
from quantexp.system.errors import TrackingError, TrainingError
from quantexp.tracking.run import Dataset, Point, track
from quantexp.tracking.store import Store, open_store
from quantexp.tracking.views import COLUMNS, directions, save_view


@pytest.fixture
def store(workdir: Path) -> Store:
    """The store of a working directory of its own."""
    return open_store(Local())


def stopped_by(store: Store, error: BaseException) -> str:
    """Let `error` happen inside a run; return the id of that run."""
    with pytest.raises(type(error)), track(store, "stopped", {}) as run:
        raise error
    return run.run_id


# -- how a run ends --------------------------------------------------------------------------------------


def test_a_run_is_running_until_it_is_finished(store: Store) -> None:
    with track(store, "fine", {"seed": 0}) as run:
        assert store.client.get_run(run.run_id).info.status == "RUNNING"
    ended = store.client.get_run(run.run_id)
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
    with pytest.raises(TrainingError, match="the first error"), track(store, "gone", {}) as run:
        store.client.delete_run(run.run_id)
        store.client.delete_experiment(store.experiment_id)
        raise TrainingError("the first error")


def test_a_run_in_an_experiment_that_does_not_exist_cannot_be_started(store: Store) -> None:
    nowhere = Store(store.client, store.uri, "404")
    with (
        pytest.raises(TrackingError, match=r"no run can be started in sqlite:///.*404"),
        track(nowhere, "n", {}),
    ):
        pytest.fail("nothing may run")


# -- what is written of it -------------------------------------------------------------------------------


def test_parameters_are_written_when_a_run_starts(store: Store) -> None:
    with track(store, "started", {"train.epochs": 2, "batch_size": [1, 64], "data_dir": None}) as run:
        started = store.run(run.run_id)
    assert started.params == {"train.epochs": "2", "batch_size": "[1, 64]", "data_dir": "None"}


def test_a_parameter_longer_than_mlflow_takes_is_cut(store: Store) -> None:
    with track(store, "long", {"model.hidden": [8] * 5000}) as run:
        pass
    kept = store.run(run.run_id).params["model.hidden"]
    assert len(kept) == 6000
    assert json.dumps([8] * 5000).startswith(kept)


def test_figures_tags_data_and_a_folder_are_recorded_as_they_are_handed_over(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (folder / "below").mkdir(parents=True)
    (folder / "table.md").write_text("| a |")
    (folder / "below" / "state").write_bytes(b"\x00\x01")
    points = [Point("accuracy", 0.5), *(Point("train/loss", 1 / step, step) for step in range(1, 1200))]
    with track(store, "whole", {}, {"of": "a test"}) as run:
        run.log(points, {"verdict": "faster"}, Dataset("mnist", "0123", "here", {"train": 3}, "test"), folder)
        run.log_text("config.yaml", "seed: 0\n")
    facts = store.run(run.run_id)
    assert (facts.name, facts.status, facts.metrics["accuracy"]) == ("whole", "FINISHED", 0.5)
    assert (facts.tags["of"], facts.tags["verdict"]) == ("a test", "faster")
    curve = store.client.get_metric_history(run.run_id, "train/loss")
    assert [(one.step, one.value) for one in curve] == [(step, 1 / step) for step in range(1, 1200)]
    (logged,) = store.client.get_run(run.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, json.loads(logged.dataset.profile)) == ("mnist", {"train": 3})
    artifacts = Path.cwd() / "mlartifacts" / run.run_id / "artifacts"
    files = {str(path.relative_to(artifacts)): path.read_bytes() for path in artifacts.rglob("*") if path.is_file()}
    assert files == {"table.md": b"| a |", "below/state": b"\x00\x01", "config.yaml": b"seed: 0\n"}


def test_what_the_store_does_not_take_is_kept_and_told_with_the_name_of_the_run(store: Store) -> None:
    with track(store, "lost", {}) as run:
        store.client.delete_run(run.run_id)
        run.log([Point("accuracy", 0.5)])
    assert run.kept is not None
    assert run.kept.startswith("lost is kept, not delivered yet: the run lost cannot be recorded")
    assert "python -m quantexp.sync" in run.kept


def test_a_run_that_is_resumed_keeps_what_it_has_and_loses_its_error(store: Store) -> None:
    run_id = stopped_by(store, TrainingError("the loss became nan"))
    with track(store, "stopped", {}, {"again": "yes"}, again=run_id) as run:
        assert store.run(run_id).status == "RUNNING"
    facts = store.run(run.run_id)
    assert (facts.run_id, facts.status, facts.tags["again"]) == (run_id, "FINISHED", "yes")
    assert "error" not in facts.tags


# -- where to look ---------------------------------------------------------------------------------------


def test_the_place_of_a_run_names_the_command_that_shows_it(store: Store, tmp_path: Path) -> None:
    here = directions(store, "mine", "abc")
    assert here[0] == f"recorded: mine in sqlite:///{tmp_path}/mlflow.db, run abc"
    assert here[1].startswith("  type mlflow ui here, then open http://127.0.0.1:5000/")
    assert here[1].endswith(f"#/experiments/{store.experiment_id}/runs/abc?workflowType=machine_learning")
    elsewhere = directions(Store(store.client, "sqlite:////data/runs.db", "1"), "mine", "abc")
    assert "mlflow ui --backend-store-uri sqlite:////data/runs.db" in elsewhere[1]


def test_the_place_of_a_run_on_a_server_hides_the_password(store: Store) -> None:
    guarded = directions(Store(store.client, "http://user:secret@host:5000/", "1"), "mine", "abc")
    assert "http://user:***@host:5000" in guarded[0]


def test_no_link_to_a_run_holds_the_password(store: Store) -> None:
    guarded = directions(Store(store.client, "http://user:secret@host:5000/", "1"), "mine", "abc")
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

"""A folder with a store, a sweep and its report, after it was moved or copied, or lost some of its files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import quantexp as package
from quantexp.config import Experiment, Local, Mlp, Mnist, Sensitivity, Static, Train
from quantexp.config import SweepSettings as Settings
from quantexp.report import main as report_command
from quantexp.results.sweep import SweepResult
from quantexp.runner import sweep
from quantexp.runner.jobs import JobOutcome, Ongoing, Plan, State
from quantexp.runner.reproduce import reproduce
from quantexp.runner.study import run_study
from quantexp.runner.sweep_results import read_before, read_sweep
from quantexp.runner.tracked import Request
from quantexp.system.errors import ModelError, TrackingError, TrainingError
from quantexp.tracking import sweeps
from quantexp.tracking.run import track
from quantexp.tracking.sqlite import own_artifacts
from quantexp.tracking.store import RunFacts, open_store, read_store

Command = Callable[..., "subprocess.CompletedProcess[str]"]

PATIENCE = 300  # seconds until a command that hangs is given up
SWEEP = (
    *("-m", "data=sample", "benchmark=quick", "batch_size=1", "task.hidden=[8]", "sweep.name=night"),
    *("quant=none,dynamic", "precision=int8", "sweep.unsupported=skip"),  # of `none` there is no int8
)
REPORT = "multirun/night"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, store_template: Path, cache: Path) -> Path:
    """A folder with a store, a sweep of two runs and its report."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(store_template, folder / "mlflow.db")
    command = [sys.executable, "-m", "quantexp", *SWEEP, "seed=0,1", f"cache_dir={cache}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def moved(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, after it was moved; it is entered. The place where it was is `tmp_path / "old"`."""
    shutil.copytree(made, tmp_path / "old")
    with closing(sqlite3.connect(tmp_path / "old" / "mlflow.db")) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            replaced = f"replace({column}, '{made}', '{tmp_path / 'old'}')"
            connection.execute(f"UPDATE {table} SET {column} = {replaced}")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    return tmp_path / "new"


@pytest.fixture
def copied(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, which lies where it lay; the copy is entered."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def recorded(condition: str = "params.quant != ''") -> list[RunFacts]:
    """The runs of the store in the working directory, the latest first."""
    with read_store(None, "quantexp") as store:
        return list(store.search(condition))


def the_sweep() -> SweepResult:
    with read_store(None, "quantexp") as store:
        return read_sweep(store, "night")


def files_of(run_id: str) -> Path:
    return Path("mlartifacts") / run_id / "artifacts"


# -- what is read ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("place", ["moved", pytest.param("copied", marks=pytest.mark.exhaustive)])
def test_a_sweep_is_reported_as_it_was(
    place: str, made: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = request.getfixturevalue(place)
    before = content(folder)
    report_command(["night"])
    assert capsys.readouterr().out.count("dynamic") >= 2
    after = content(folder)
    assert after.items() >= before.items()
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"report-night"}
    for name in ("table.csv", "full.csv", "networks.md"):
        assert after[f"report-night/{name}"] == (made / REPORT / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["moved", "copied"])
def test_a_network_is_loaded_and_started_from(
    place: str, request: pytest.FixtureRequest, sample: Callable[..., Experiment]
) -> None:
    folder = request.getfixturevalue(place)
    if place == "copied":  # what is read is read from the copy
        (files_of(recorded()[0].run_id) / "model" / "recipe.json").write_text("{}")
        with pytest.raises(ModelError, match="damaged"):
            package.load(recorded()[0].run_id)
    before = content(folder)
    package.load(recorded()[-1].run_id)(torch.zeros(2, 400))
    quantized = sample(train=Train(checkpoint=recorded()[-1].run_id), model=Mlp(hidden=[8]))
    with pytest.raises(TrainingError, match="initial weights must be float32"):
        package.run(quantized)
    assert content(folder) == before


@pytest.mark.slow
def test_files_of_the_former_place_are_still_found_where_the_database_alone_was_copied(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(made / "mlflow.db", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(the_sweep().reports) == 2
    assert the_sweep().unsupported


# -- what is written -------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize("place", ["moved", "copied"])
def test_a_sweep_is_resumed_and_written_beside_the_store_only(
    place: str, made: Path, tmp_path: Path, request: pytest.FixtureRequest, quantexp: Command
) -> None:
    folder = request.getfixturevalue(place)
    original = content(made)
    ended = quantexp(*SWEEP, "seed=0,1,2", timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("skip      finished before") == 2
    assert content(made) == original
    assert not (tmp_path / "old").exists()

    runs = recorded()
    assert [run.status for run in runs] == ["FINISHED"] * 3
    (parent,) = recorded("tags.`quantexp.kind` = 'sweep'")
    for run in (*runs, parent):
        assert run.artifact_uri == (folder / files_of(run.run_id)).as_uri()  # where MLflow's own pages look
    assert (files_of(runs[0].run_id) / "model" / "recipe.json").is_file()
    reported = (files_of(parent.run_id) / "report" / "table.csv").read_text()
    assert reported == (folder / REPORT / "table.csv").read_text()
    assert len(reported.splitlines()) == 1 + 3
    assert len(the_sweep().unsupported) == 3


@pytest.mark.slow
@pytest.mark.parametrize("place", ["moved", "copied"])
def test_a_run_is_reproduced_and_recorded_beside_the_store_only(
    place: str, made: Path, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = request.getfixturevalue(place)
    original = content(made)
    (first, *_) = recorded()
    reproduce(first.run_id, Local())  # its speedups on so small a model and so short a time may differ
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Accuracy, dynamic int8" in line]
    assert line.rstrip().endswith("equal")
    again = recorded()[0]
    assert again.tags["quantexp.reproduces"] == first.run_id
    assert (folder / files_of(again.run_id) / "report.json").is_file()
    assert content(made) == original
    assert not (tmp_path / "old").exists()


@pytest.mark.exhaustive
def test_a_study_is_resumed_and_written_beside_the_store_only(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory, sample: Callable[..., Experiment]
) -> None:
    experiment = sample(
        task=Mnist(hidden=[8]),
        model=Mlp(hidden=[8]),
        quant=Static(calibration_examples=64),
        train=Train(epochs=1, threads=1),
        batch_size=1,
        study=Sensitivity(layers=["layers.0"]),
    )
    groups = {group: "default" for group in ("train", "benchmark", "tracking")}
    choices = {"task": "mnist", "model": "mlp", "quant": "static", "study": "sensitivity", **groups}
    request = Request(choices, ["study=sensitivity"], OmegaConf.to_yaml(OmegaConf.structured(experiment)))
    first = run_study(experiment, request)
    ran = [run.run_id for run in recorded()]
    moved = tmp_path_factory.mktemp("moved") / "new"
    workdir.rename(moved)
    os.chdir(moved)
    try:
        assert run_study(experiment, request).table == first.table
        assert [run.run_id for run in recorded()] == ran  # nothing was measured again
        assert not workdir.exists()
        (study,) = recorded("params.study = 'sensitivity'")
        assert study.artifact_uri == (moved / files_of(study.run_id)).as_uri()
    finally:
        moved.rename(workdir)  # where pytest looks for it


@pytest.mark.slow
def test_a_run_of_the_former_place_that_is_resumed_is_written_beside_the_store(moved: Path, tmp_path: Path) -> None:
    store = open_store(Local())
    (first, *_) = recorded()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "table.md").write_text("| a |")
    shutil.rmtree(files_of(first.run_id))
    with track(store, first.name, {}, again=first.run_id) as run:
        run.log(folder=tmp_path / "kept")
    assert (moved / files_of(first.run_id) / "table.md").read_text() == "| a |"
    assert not (tmp_path / "old").exists()


@pytest.mark.parametrize("address", ["{}/elsewhere", "s3://bucket/folder", "mlflow-artifacts:/1"])
def test_a_place_for_files_that_the_user_chose_is_left_as_it_is(workdir: Path, address: str) -> None:
    chosen = address.format(workdir)
    store = open_store(Local(experiment="quantexp-other"))
    number = store.client.create_experiment("quantexp", artifact_location=chosen)
    assert open_store(Local()).client.get_experiment(number).artifact_location == chosen


def test_a_store_that_is_used_by_two_names_of_its_folder_is_not_one_that_was_moved(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(Local())
    link = tmp_path_factory.mktemp("linked") / "link"
    link.symlink_to(workdir)
    before = (workdir / "mlflow.db").read_bytes()
    with read_store(f"sqlite:///{link / 'mlflow.db'}", "quantexp") as store:
        location = store.client.get_experiment(store.experiment_id).artifact_location
    assert location == (workdir / "mlartifacts").as_uri()
    own_artifacts(link / "mlflow.db", "quantexp")
    assert (workdir / "mlflow.db").read_bytes() == before


# -- what cannot be read ---------------------------------------------------------------------------------


def test_runs_without_their_files_are_said_and_count_neither_as_done_nor_as_failed(
    moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("mlartifacts")
    before = content(moved)
    sweep_result = the_sweep()
    assert (sweep_result.entries, sweep_result.failed, sweep_result.unsupported) == ((), (), ())
    assert [one.name.split()[0] for one in sweep_result.unreadable] == [
        *(f"mnist-sample-dynamic-int8-s{seed}" for seed in (0, 1)),
        "unsupported.json",
    ]
    told = sweep_result.unreadable[0].reason
    run_id = sweep_result.unreadable[0].run_id
    assert f"there is no folder {moved / files_of(run_id)} with its files" in told
    assert "copy mlartifacts there from the original store" in told
    with pytest.raises(SystemExit) as left:
        report_command(["night"])
    assert left.value.code == 1
    assert "nothing of the sweep night can be read: report.json of run" in capsys.readouterr().err
    with pytest.raises(TrackingError, match=r"model/recipe\.json .*there is no folder"):
        package.load(run_id)
    with pytest.raises(TrackingError, match=r"report\.json .*there is no folder"):
        reproduce(run_id, Local())
    assert content(moved) == before


def test_a_report_is_not_replaced_by_one_that_lacks_results_which_it_has(
    moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_command(["night"])
    (lost, _) = recorded()
    shutil.rmtree(files_of(lost.run_id))
    before = content(moved)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        report_command(["night"])
    shown = capsys.readouterr()
    assert left.value.code == 1
    assert "1 recorded results cannot be read and are not in the table" in shown.out
    assert "the report in report-night is not replaced: it has 1 results that cannot be read now" in shown.err
    assert shown.err.rstrip().endswith("Choose another folder with --to FOLDER")
    assert content(moved) == before

    report_command(["night", "--to", "other"])
    assert f"## Not readable\n\n- {lost.name}" in Path("other/report.md").read_text().replace("\\", "")
    assert "<h2>Not readable</h2>" in Path("other/report.html").read_text()
    assert "## Failed" not in Path("other/report.md").read_text()
    assert len(Path("other/table.csv").read_text().splitlines()) == 1 + 1
    report_command(["night", "--to", "other"])  # which has no more than can be read


def test_the_report_of_a_sweep_that_is_resumed_is_kept_while_results_in_it_cannot_be_read(
    moved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (lost, kept) = recorded()
    (parent,) = recorded("tags.`quantexp.kind` = 'sweep'")
    shutil.rmtree(files_of(lost.run_id))
    before = content(moved / REPORT), content(files_of(parent.run_id) / "report")
    sweep.begin(moved / REPORT, Local(), Settings(name="night"), Plan({"0": "seed=0"}), "python -m quantexp -m")
    assert Ongoing.read(moved / REPORT).done == {kept.tags["quantexp.identity"]: kept.name}
    assert f"{lost.name} is run again, its result cannot be read" in caplog.text
    sweep.leave_outcome(moved / REPORT, Local(), "0", JobOutcome(State.done, "seed=0", 0))
    assert not sweep.sum_up(moved / REPORT, Local())  # its report was not written
    assert f"{moved / REPORT} keeps its report: it has 1 results that cannot be read now" in caplog.text
    now = content(moved / REPORT)
    after = {name: text for name, text in now.items() if name != "sweep.json" and "outcomes" not in name}
    assert (after, content(files_of(parent.run_id) / "report")) == (
        {name: text for name, text in before[0].items() if name != "sweep.json" and "outcomes" not in name},
        before[1],
    )
    assert recorded("tags.`quantexp.kind` = 'sweep'")[0].status == "FINISHED"


@pytest.mark.exhaustive
def test_what_cannot_be_read_is_run_again_when_its_sweep_is_resumed(moved: Path, quantexp: Command) -> None:
    (lost, _) = recorded()
    shutil.rmtree(files_of(lost.run_id))
    ended = quantexp(*SWEEP, "seed=0,1", timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("skip      finished before") == 1
    assert f"{lost.name} is run again, its result cannot be read" in ended.stderr
    assert "keeps its report" not in ended.stderr
    assert len(Path(REPORT, "table.csv").read_text().splitlines()) == 1 + 2
    assert (len(the_sweep().reports), the_sweep().unreadable) == (2, ())


# -- what a store may not say ----------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["artifacts", "run", "file"])
def test_a_link_beside_the_store_that_leads_out_of_it_is_not_followed(moved: Path, tmp_path: Path, level: str) -> None:
    (first, *_) = recorded()
    place = {"artifacts": files_of(first.run_id), "run": files_of(first.run_id).parent}.get(
        level, files_of(first.run_id) / "report.json"
    )
    place.rename(tmp_path / "outside")
    place.symlink_to(tmp_path / "outside")
    with read_store(None, "quantexp") as store:
        before = read_before(store, sweeps.parents(store, "night")[0].run_id)
    (unreadable,) = before.unreadable
    assert (unreadable.run_id, len(before.done)) == (first.run_id, 1)
    assert "an artifact must lie below its run" in unreadable.reason


def test_an_id_of_a_run_that_leads_out_of_the_store_is_not_followed(moved: Path, tmp_path: Path) -> None:
    (first, *_) = recorded()
    shutil.copytree(files_of(first.run_id), tmp_path / "outside" / "artifacts")
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            connection.execute(f"UPDATE {table} SET run_uuid = '../../outside' WHERE run_uuid = ?", (first.run_id,))
    (unreadable,) = the_sweep().unreadable
    assert unreadable.run_id == "../../outside"
    assert "the run did not store it" in unreadable.reason

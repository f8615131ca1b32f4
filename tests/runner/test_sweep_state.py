"""The state of a sweep does not depend on Hydra's folders, and its exit status tells whether all of it succeeded."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantexp.config import Retry
from quantexp.config import SweepSettings as Settings
from quantexp.config.tracking import Local, Server, Tracking
from quantexp.runner import sweep
from quantexp.runner.jobs import JobOutcome, Ongoing, Plan, State, read_outcomes
from quantexp.system.errors import ConfigError
from quantexp.tracking.address import bare
from quantexp.tracking.names import PARENT
from quantexp.tracking.outbox import Record, keep, outbox_of, waiting
from quantexp.tracking.store import open_store

ROOT = Path(__file__).parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]

QUICK = ("data=sample", "benchmark=quick", "batch_size=1", "task.hidden=[8]", "quant=none", "train.epochs=1")
NIGHT = ("-m", *QUICK, "sweep.name=night")
FAILS = "train.checkpoint=null,other.pt"  # a file that holds no weights


def runs_in(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return list(client.search_runs([client.get_experiment_by_name("quantexp").experiment_id], "params.quant != ''"))


# -- folders ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["hydra.job.chdir=true"],
        ["hydra.sweep.subdir=a/b/${hydra.job.num}"],
        ["hydra.sweep.subdir=same"],
        ["hydra.sweep.subdir=${hydra.job.override_dirname}", "hydra.job.chdir=true"],
        ["hydra.sweep.subdir=.", "hydra.job.chdir=true"],
        ["hydra.sweep.dir='own ${sweep.name}'", "hydra.job.chdir=true", "hydra.output_subdir=.hydra"],
    ],
    ids=["chdir", "nested", "constant", "override_dirname", "none", "relative"],
)
def test_a_failed_combination_is_counted_wherever_hydra_has_its_folders(
    workdir: Path, quantexp: Command, settings: list[str]
) -> None:
    (workdir / "other.pt").write_bytes(b"no weights")
    done = quantexp(*NIGHT, FAILS, *settings)
    assert done.returncode == 1, done.stderr
    assert "1 of 2 combinations failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "remain" not in done.stdout
    assert [run.info.status for run in runs_in(workdir)].count("FINISHED") == 1
    assert len(list(workdir.rglob("mlflow.db"))) == 1
    assert len(list(workdir.rglob("sweep.json"))) == 1


@pytest.mark.slow
def test_a_single_run_in_a_changed_directory_finds_its_files_and_its_store(workdir: Path, quantexp: Command) -> None:
    (workdir / "other.pt").write_bytes(b"no weights")
    done = quantexp(*QUICK, "train.checkpoint=other.pt", "hydra.job.chdir=true", "hydra.run.dir=elsewhere")
    assert done.returncode == 1
    assert "cannot be read as weights" in done.stderr
    assert [run.info.status for run in runs_in(workdir)] == ["FAILED"]
    assert not (workdir / "elsewhere" / "mlflow.db").exists()


# -- combinations ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_shuffled_sweep_runs_each_combination_once(workdir: Path, quantexp: Command) -> None:
    done = quantexp(*NIGHT, "seed=shuffle(0,0,1,2)")
    assert done.returncode == 0, done.stderr
    assert sorted(run.data.params["seed"] for run in runs_in(workdir)) == ["0", "1", "2"]


SWEEPER = """
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

class {name}(BasicSweeper):
    def __init__(self, max_batch_size=None, params=None):
        super().__init__(max_batch_size, params)

    def get_job_batch(self):
        return [[*jobs, f"seed={{seed}}"] for jobs in super().get_job_batch() for seed in {seeds}]
"""


ORDERED = """
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper as Theirs

class BasicSweeper(Theirs):
    def get_job_batch(self):
        jobs = super().get_job_batch()
        return {order}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    ["jobs[::-1]", "sorted(jobs)", "[jobs[number] for number in (0, 2, 1, 3)]"],
    ids=["reversed", "sorted", "mixed"],
)
def test_a_sweep_whose_jobs_come_in_another_order_than_planned_runs_each_combination_once(
    workdir: Path, quantexp: Command, order: str
) -> None:
    (workdir / "hydra_plugins").mkdir()
    (workdir / "hydra_plugins" / "more.py").write_text(ORDERED.format(order=order))
    chosen = "hydra.sweeper._target_=hydra_plugins.more.BasicSweeper"
    done = quantexp(*NIGHT, chosen, "seed=2,2,0,1", PYTHONPATH=f"{workdir}:{ROOT}")
    assert done.returncode == 0, done.stderr
    assert sorted(run.data.params["seed"] for run in runs_in(workdir)) == ["0", "1", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seeds", "status"), [("Other", [3, 3, 4], 0), ("BasicSweeper", [0, 3], 1)])
def test_a_sweeper_that_chooses_other_jobs_loses_none_of_them(
    workdir: Path, quantexp: Command, name: str, seeds: list[int], status: int
) -> None:
    (workdir / "hydra_plugins").mkdir()
    text = SWEEPER.format(name=name, seeds=seeds).replace("import BasicSweeper", "import BasicSweeper as Theirs")
    (workdir / "hydra_plugins" / "more.py").write_text(text.replace("(BasicSweeper):", "(Theirs):"))
    chosen = f"hydra.sweeper._target_=hydra_plugins.more.{name}"
    done = quantexp(*NIGHT, chosen, *(["seed=0,1"] if status else []), PYTHONPATH=f"{workdir}:{ROOT}")
    assert done.returncode == status, done.stderr
    assert {run.data.params["seed"] for run in runs_in(workdir)} == set(map(str, seeds))
    if status:  # seed=1 was planned, and the sweeper left it out
        assert "1 of 3 combinations have no result" in done.stderr


# -- exit status -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.html", "full.csv", "table.md/x"])
def test_a_sweep_whose_report_cannot_be_written_does_not_exit_with_0(
    workdir: Path, quantexp: Command, name: str
) -> None:
    (workdir / "multirun" / "night" / name).mkdir(parents=True)
    done = quantexp(*NIGHT)
    assert done.returncode == 1
    assert "the report of the sweep cannot be made" in done.stderr
    assert [run.info.status for run in runs_in(workdir)] == ["FINISHED"]


LOSING = """
import pathlib, shutil
from torch import nn

class Losing(nn.Sequential):
    def __init__(self, inputs, classes, number):
        super().__init__(nn.Linear(inputs, classes))
        if number == 1:
            {loss}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            "[path.write_text('{}') for path in pathlib.Path('mlartifacts').glob('*/artifacts/report.json')]",
            "1 of 2 combinations have no result in the store that can be read",
        ),
        (
            "shutil.rmtree('mlartifacts', ignore_errors=True)",
            "1 of 2 combinations have no result in the store that can be read",
        ),
        (
            "[path.unlink() for path in pathlib.Path('.').glob('mlflow.db*')]",
            "the report of the sweep cannot be made",
        ),
    ],
    ids=["report", "files", "store"],
)
def test_a_result_that_the_store_lost_while_the_sweep_ran_is_no_success(
    workdir: Path, quantexp: Command, loss: str, said: str
) -> None:
    (workdir / "nets.py").write_text(LOSING.format(loss=loss))
    own = ("model=custom", "model.target=nets.Losing", "model.arguments={number: 0},{number: 1}")
    done = quantexp("-m", *QUICK[:3], "quant=none", "train.epochs=1", "sweep.name=night", *own)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert said in done.stderr


@pytest.mark.slow
def test_code_of_the_user_that_calls_exit_is_a_failed_run(workdir: Path, quantexp: Command) -> None:
    (workdir / "nets.py").write_text("def leaving(inputs, classes, **more):\n    raise SystemExit(0)\n")
    own = ("model=custom", "model.target=nets.leaving")
    single = quantexp(*QUICK[:3], "quant=none", *own)
    assert single.returncode == 1, single.stderr
    done = quantexp("-m", *QUICK[:3], "quant=none", "sweep.name=night", "seed=0,1", *own)
    assert done.returncode == 1
    assert "2 of 2 combinations failed" in done.stderr
    assert "sys.exit(0)" in done.stderr


@pytest.mark.slow
def test_a_sweep_without_its_checks_is_refused(workdir: Path, quantexp: Command) -> None:
    done = quantexp(*NIGHT, "~hydra.callbacks.quantexp")
    assert done.returncode == 1
    assert "sweep.json cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workdir / "mlartifacts").exists()


@pytest.fixture
def begun(workdir: Path) -> Path:
    """The folder of a sweep of two combinations that has begun."""
    folder = workdir / "multirun" / "night"
    sweep.begin(folder, Local(), Settings(name="night"), Plan({"0": "seed=0", "1": "seed=1"}), "")
    return folder


def test_a_job_that_vanished_is_a_combination_without_a_result(begun: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep.leave_outcome(begun, Local(), "0", JobOutcome(State.done, "seed=0", 0))
    assert JobOutcome(State.running, "seed=1", 1).claim(begun, "1")  # and its process is killed
    assert not sweep.sum_up(begun, Local())
    assert "1 of 2 combinations have no result" in caplog.text
    assert "  seed=1" in caplog.text


def test_a_job_that_never_started_is_a_combination_without_a_result(
    begun: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.leave_outcome(begun, Local(), "1", JobOutcome(State.done, "seed=1", 1))
    assert not sweep.sum_up(begun, Local())
    assert "  seed=0" in caplog.text
    assert "1 of 2 combinations remain; run the same command with sweep.name=night to resume" in capsys.readouterr().out


def test_a_sweep_of_which_no_job_ran_has_not_succeeded(workdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = workdir / "multirun" / "night"
    sweep.begin(folder, Local(), Settings(name="night"), Plan(None), "")
    assert not sweep.sum_up(folder, Local())
    assert "no job of the sweep has run" in caplog.text


def test_a_sweep_all_of_which_has_a_result_has_succeeded(begun: Path) -> None:
    for number in (0, 1):
        sweep.leave_outcome(begun, Local(), str(number), JobOutcome(State.done, f"seed={number}", number))
    assert sweep.sum_up(begun, Local())
    assert {outcome.state for outcome in read_outcomes(begun).values()} == {State.done}
    assert json.loads((begun / "sweep.json").read_text())["folder"] == str(begun.parents[1])


CACHES = ("cache", "other cache", "third")


def wait_in(place: Tracking, name: str, parent: str) -> None:
    """Keep a result of a sweep for its store, as a run leaves it."""
    tags = {PARENT: parent, "quantexp.identity": name}
    kept = keep(
        outbox_of(place), Record(bare(place.uri), "quantexp", name, "", 1, tags=tags, status="FINISHED", ended_ms=2)
    )
    kept.write()
    kept.release()


def test_results_that_wait_in_several_cache_folders_are_all_delivered_when_the_sweep_starts(workdir: Path) -> None:
    places = [Local(keep_in=str(workdir / name)) for name in CACHES]
    for number, place in enumerate(places):
        wait_in(place, str(number), "parent")
    plan = Plan({"0": "seed=0"}, kept_in=tuple(place.keep_in for place in places))
    sweep.begin(workdir / "multirun" / "night", places[0], Settings(name="night"), plan, "")
    assert sorted(run.name for run in open_store(Local()).search("") if run.finished) == ["0", "1", "2"]
    assert [waiting(outbox_of(place)) for place in places] == [[], [], []]


def test_results_that_wait_in_several_cache_folders_are_all_counted_when_the_sweep_ends(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = workdir / "multirun" / "night"
    places = [Server(uri="http://127.0.0.1:9", keep_in=str(workdir / name)) for name in CACHES]
    Ongoing(
        *("night", "parent", {"0": "seed=0"}, Retry.unfinished, {}, []), kept_in=[place.keep_in for place in places]
    ).write(folder)
    JobOutcome(State.done, "seed=0", 0).write(folder, "0")
    for place, parent in zip(places, ("parent", "another", "parent"), strict=True):
        wait_in(place, "run", parent)
    assert not sweep.sum_up(folder, places[0])
    first, third = (outbox_of(places[number]) for number in (0, 2))
    assert (
        "2 results are kept, not delivered yet; run the same command again when the store answers, or " in caplog.text
    )
    assert f"python -m quantexp.sync {first} {third}" in caplog.text


@pytest.mark.parametrize("place", ["elsewhere/night", "multirun/night/night", "multirun/night 2", "multirun/Night"])
def test_a_sweep_of_another_folder_on_the_same_server_is_not_mixed_with_it(
    begun: Path, workdir: Path, place: str
) -> None:
    store = open_store(Local())
    other = workdir / place
    sweep.check_place(store, "night", other)  # a SQLite file may have been copied with its folder
    store.database = None  # like a server
    sweep.check_place(store, "night", begun)
    sweep.check_place(store, "day", other)
    with pytest.raises(
        ConfigError, match=rf"has a sweep night whose directory is {begun}; choose another sweep.name, or"
    ):
        sweep.check_place(store, "night", other)
    (begun / "sweep.json").unlink()  # the folder was removed: its name is free
    sweep.check_place(store, "night", other)


def test_a_sweep_may_name_its_folder_in_other_words(begun: Path, workdir: Path) -> None:
    store = open_store(Local())
    store.database = None  # like a server
    (workdir / "link").symlink_to(begun)
    for folder in (workdir / "link", begun / ".." / "night", begun.parent / "night"):
        sweep.check_place(store, "night", folder)

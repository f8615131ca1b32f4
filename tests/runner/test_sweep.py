"""A sweep that has a name: stopped at any point it goes on, and nothing is done twice."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quantexp.config import Experiment, NoQuant, Retry
from quantexp.config import SweepSettings as Settings
from quantexp.config.tracking import Local
from quantexp.mission import load
from quantexp.runner import sweep
from quantexp.runner.identity import configuration_digest, identity_of
from quantexp.runner.jobs import JobOutcome, Ongoing, Plan, State, read_outcomes
from quantexp.system.errors import CacheError, ConfigError

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]

PATIENCE = 240  # seconds until a command that hangs is given up
QUICK = ("data=sample", "benchmark=quick", "batch_size=1", "task.hidden=[8]", "quant=none")
TWO = {"0": "seed=0", "1": "seed=1"}  # the combinations of a plan
SEEDS = ("-m", *QUICK, "sweep.name=night")


def runs_in(folder: Path, condition: str = "params.quant != ''") -> list[Any]:
    """The runs of combinations; a parent has no parameters."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return list(client.search_runs([client.get_experiment_by_name("quantexp").experiment_id], condition))


def parents_in(folder: Path) -> list[Any]:
    return runs_in(folder, "tags.`quantexp.kind` = 'sweep'")


def rows_of(folder: Path) -> list[str]:
    """The lines of the sweep's table, without the header."""
    return (folder / "multirun" / "night" / "table.csv").read_text(encoding="utf-8").splitlines()[1:]


@pytest.fixture
def start(cache: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in the current directory and leave it running; what still runs at the end is killed."""
    children: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "quantexp", *arguments, f"cache_dir={cache}"]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return children[-1]

    yield run
    for child in children:
        child.kill()
        child.communicate(timeout=PATIENCE)


def read_until(child: subprocess.Popen[str], stage: str) -> None:
    assert child.stderr is not None
    line, said = "", ""
    while not line.startswith(stage):
        line = child.stderr.readline()
        assert line, f"it ended before {stage!r}:\n{said}"
        said += line


# -- the command -----------------------------------------------------------------------------------------


def test_the_same_name_again_does_what_is_left_and_nothing_twice(workdir: Path, quantexp: Command) -> None:
    first = quantexp(*SEEDS, "seed=0,1")
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith("sweep     night: 2 combinations\n")
    done = {run.info.run_id: run.info.end_time for run in runs_in(workdir)}

    more = quantexp(*SEEDS, "seed=0,1,2")
    assert more.returncode == 0, more.stderr
    assert more.stderr.startswith("sweep     night: 3 combinations, 2 finished before\n")
    assert [line for line in more.stderr.splitlines() if line.startswith("skip")] == [
        f"skip      finished before: mnist-sample-none-fp32-s{seed} benchmark=quick batch_size=1 task.hidden=[8]"
        for seed in (0, 1)
    ]
    runs = runs_in(workdir)
    assert Counter(run.info.status for run in runs) == {"FINISHED": 3}
    assert {run.info.run_id: run.info.end_time for run in runs}.items() >= done.items()
    assert len(rows_of(workdir)) == 3

    (parent,) = parents_in(workdir)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.info.run_id}
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "sweep night")
    assert {name: parent.data.metrics[name] for name in ("done", "failed", "left")} == {
        "done": 3,
        "failed": 0,
        "left": 0,
    }
    assert "sweep.name=night" in parent.data.tags["quantexp.command"]
    assert "| mnist (sample) | none |" in parent.data.tags["mlflow.note.content"]
    kept = {path.name for path in (workdir / "mlartifacts" / parent.info.run_id / "artifacts" / "report").iterdir()}
    assert {"table.md", "table.csv", "full.csv", "report.md", "report.html"} <= kept
    assert "multirun/night/report.html" in more.stdout


def test_a_sweep_that_shall_not_go_on_begins_anew_and_leaves_the_first(workdir: Path, quantexp: Command) -> None:
    assert quantexp(*SEEDS, "seed=0,1").returncode == 0
    assert quantexp(*SEEDS, "seed=0,1", "sweep.resume=false").returncode == 0
    assert Counter(run.info.status for run in runs_in(workdir)) == {"FINISHED": 4}
    assert len(parents_in(workdir)) == 2
    assert len(rows_of(workdir)) == 2


def test_a_sweep_that_was_killed_goes_on_where_it_stopped(
    workdir: Path, quantexp: Command, start: Callable[..., subprocess.Popen[str]]
) -> None:
    child = start(*SEEDS, "seed=0,1,2")
    read_until(child, "run 2")
    read_until(child, "data")
    child.kill()
    assert child.wait(PATIENCE) == -signal.SIGKILL
    assert Counter(run.info.status for run in runs_in(workdir)) == {"FINISHED": 1, "RUNNING": 1}

    after = quantexp(*SEEDS, "seed=0,1,2")
    assert after.returncode == 0, after.stderr
    assert len([line for line in after.stderr.splitlines() if line.startswith("skip      finished before")]) == 1
    assert Counter(run.info.status for run in runs_in(workdir)) == {"FINISHED": 3, "KILLED": 1}
    assert len(rows_of(workdir)) == 3
    (killed,) = runs_in(workdir, "attributes.status = 'KILLED'")
    assert killed.data.tags["error"] == "its process was killed"
    (parent,) = parents_in(workdir)
    assert parent.info.status == "FINISHED"


def test_what_failed_is_a_row_with_its_error_and_can_be_repeated_alone(workdir: Path, quantexp: Command) -> None:
    weights = workdir / "weights.pt"
    weights.write_bytes(b"no weights")  # seen when it is read, so that the run fails and not the command
    arguments = (*SEEDS, "train.epochs=1", f"train.checkpoint=null,{weights}")
    done = quantexp(*arguments)
    assert done.returncode == 1
    assert "1 of 2 combinations failed" in done.stderr
    assert Counter(run.info.status for run in runs_in(workdir)) == {"FINISHED": 1, "FAILED": 1}
    (parent,) = parents_in(workdir)
    assert parent.info.status == "FAILED"
    assert {name: parent.data.metrics[name] for name in ("done", "failed", "left")} == {
        "done": 1,
        "failed": 1,
        "left": 0,
    }
    assert "cannot be read as weights" in (workdir / "multirun" / "night" / "report.md").read_text(encoding="utf-8")

    again = quantexp(*arguments, "sweep.retry=failed")
    assert again.returncode == 1
    assert len([line for line in again.stderr.splitlines() if line.startswith("skip")]) == 1
    assert Counter(run.info.status for run in runs_in(workdir)) == {"FINISHED": 1, "FAILED": 2}


def test_settings_of_a_sweep_are_refused_for_one_run(workdir: Path, quantexp: Command) -> None:
    done = quantexp(*QUICK, "sweep.name=night")
    assert done.returncode == 2
    assert "sweep.name=night is a setting of sweeps, and this is a single run; add -m for a sweep" in done.stderr


@pytest.mark.parametrize("name", ["../up", "/tmp/x", ".hidden", "a/b", "x'y", "", "n" * 101, "two\\nlines"])
def test_a_name_that_is_no_folders_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.name must be"):
        Settings(name=name)


def test_repeating_what_failed_and_beginning_anew_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.retry=failed .* sweep\.resume=false"):
        Settings(retry=Retry.failed, resume=False)


# -- its parts -------------------------------------------------------------------------------------------


@pytest.fixture
def experiment(sample: Callable[..., Experiment]) -> Experiment:
    return sample(quant=NoQuant())


def test_a_combination_is_skipped_if_its_identity_is_done(experiment: Experiment) -> None:
    digest = identity_of(experiment, load(experiment).fingerprint).digest
    done = Ongoing("night", "p", TWO, Retry.unfinished, {digest: "the run"}, [])
    assert done.reason_to_skip(experiment) == "finished before: the run"
    other = Ongoing("night", "p", TWO, Retry.unfinished, {digest[::-1]: "another"}, [])
    assert other.reason_to_skip(experiment) is None


def test_what_no_outcome_tells_of_is_left(experiment: Experiment) -> None:
    planned = {digest: f"seed={digest}" for digest in "0123"}
    ongoing = Ongoing("night", "p", planned, Retry.unfinished, {}, [])
    failed = JobOutcome(State.failed, "seed=1", 1, "an error")
    outcomes = {"0": JobOutcome(State.done, "seed=0", 0), "1": failed, "2": JobOutcome(State.running, "seed=2", 2)}
    assert ongoing.missing(outcomes) == ["seed=2", "seed=3"]
    assert ongoing.total(outcomes) == 4


def test_jobs_that_were_not_planned_are_counted_and_stand_for_no_planned_one() -> None:
    ongoing = Ongoing("night", "p", TWO, Retry.unfinished, {}, [])
    outcomes = {other: JobOutcome(State.done, other, 0) for other in "xyz"}
    assert ongoing.missing(outcomes) == ["seed=0", "seed=1"]
    assert ongoing.total(outcomes) == 5
    assert Ongoing("night", "p", None, Retry.unfinished, {}, []).missing(outcomes) == []


def test_a_combination_is_run_by_one_job_only(tmp_path: Path) -> None:
    first, again = (JobOutcome(State.running, "seed=0", number) for number in (0, 1))
    assert first.claim(tmp_path, "0")
    assert not again.claim(tmp_path, "0")
    assert read_outcomes(tmp_path) == {"0": first}


def test_an_outcome_that_was_cut_short_is_a_job_that_was_killed(tmp_path: Path) -> None:
    JobOutcome(State.running, "seed=0", 0).claim(tmp_path, "0")
    (tmp_path / "outcomes" / "0.json").write_text('{"state": "don')
    assert read_outcomes(tmp_path)["0"].state is State.running


def test_an_outcome_that_cannot_be_written_is_told_and_the_sweep_goes_on(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = workdir / "multirun" / "night"
    sweep.begin(folder, Local(), Settings(name="night"), Plan(TWO), "")
    (folder / "outcomes").write_text("no folder")
    sweep.leave_outcome(folder, Local(), "0", JobOutcome(State.done, "seed=0", 0))
    assert "outcomes/0.json is not writable" in caplog.text


def test_only_what_failed_is_repeated_if_that_is_asked(experiment: Experiment) -> None:
    failed = Ongoing("night", "p", TWO, Retry.failed, {}, [configuration_digest(experiment)])
    assert failed.reason_to_skip(experiment) is None
    never_run = Ongoing("night", "p", TWO, Retry.failed, {}, [])
    assert str(never_run.reason_to_skip(experiment)).startswith("sweep.retry=failed")


def test_a_sweep_runs_in_one_process_at_a_time(workdir: Path) -> None:
    folder = workdir / "multirun" / "night"
    code = (
        "import sys; from pathlib import Path; from quantexp.runner import sweep;"
        "sweep._hold(Path(sys.argv[1])); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CacheError, match=r"another process runs the sweep in .*night; wait until it ends"):
            sweep.begin(folder, Local(), Settings(name="night"), Plan(TWO), "python -m quantexp -m")
        other.kill()
    sweep.begin(folder, Local(), Settings(name="night"), Plan(TWO), "python -m quantexp -m")  # the dead hold nothing
    assert Ongoing.read(folder).planned == TWO
    assert json.loads((folder / "sweep.json").read_text())["name"] == "night"


def test_what_an_earlier_sweep_left_in_the_folder_is_not_counted(workdir: Path) -> None:
    folder = workdir / "multirun" / "night"
    sweep.begin(folder, Local(), Settings(name="night"), Plan(TWO), "")
    sweep.leave_outcome(folder, Local(), "0", JobOutcome(State.failed, "seed=0", 0, "an error"))
    (parent,) = parents_in(workdir)
    assert {name: parent.data.metrics[name] for name in ("done", "failed", "left")} == {
        "done": 0,
        "failed": 1,
        "left": 1,
    }
    sweep.begin(folder, Local(), Settings(name="night"), Plan(TWO), "")
    assert read_outcomes(folder) == {}


def test_the_command_of_a_sweep_can_be_typed_again_and_holds_no_password() -> None:
    shown = sweep.command_line(["-m", "tracking.uri=http://me:secret@host", "batch_size=[1, 64]"])
    assert shown == "python -m quantexp -m tracking.uri=http://me:***@host 'batch_size=[1, 64]'"
    assert re.search("secret", shown) is None

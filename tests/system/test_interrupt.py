"""Runs that are stopped, by a signal or for good, and runs that start together."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.Popen[str]"]

PATIENCE = 240  # seconds until a command that hangs is given up
QUICK = ("data=sample", "benchmark=quick", "batch_size=1", "quant=none")
LONG = (*QUICK, "task.hidden=[2048,2048]", "train.epochs=500")  # minutes of training: it is always stopped before
TRAINED = re.compile(r"train     float mnist: [\d.]+ s, loss")
LOADED = re.compile(r"train     float mnist: from the cache")


@pytest.fixture
def start() -> Iterator[Command]:
    """Start the command in the current directory and leave it running; whatever still runs at the end is killed."""
    children: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "quantexp", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate(timeout=PATIENCE)


def seen_until(child: subprocess.Popen[str], *stages: str) -> str:
    """Read what the child says on stderr, line by line, until each of `stages` began a line, in this order."""
    assert child.stderr is not None
    said = ""
    for stage in stages:
        line = ""
        while not line.startswith(stage):
            line = child.stderr.readline()
            assert line, f"it ended before {stage!r}:\n{said}"
            said += line
    return said


def wait_until_it_listens(child: subprocess.Popen[str]) -> None:
    """Wait until the child handles SIGTERM itself, where the system tells: before that Python is still starting."""
    status, until = Path(f"/proc/{child.pid}/status"), time.monotonic() + PATIENCE
    while status.is_file() and time.monotonic() < until:
        caught = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)


def ended(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end; return exit status, stdout and the rest of stderr."""
    stdout, stderr = child.communicate(timeout=PATIENCE)
    return child.returncode, stdout, stderr


def runs_in(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return list(client.search_runs([client.get_experiment_by_name("quantexp").experiment_id], "params.quant != ''"))


def entries(cache: Path) -> list[Path]:
    """The entries of the cache, each of them whole: a record with the weights that it names."""
    records = sorted((cache / "models").glob("*.json"))
    for record in records:
        weights = record.with_suffix(".safetensors")
        assert json.loads(record.read_text())["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert load_file(weights)
    assert not [record for record in records if record.name.startswith(".")]
    return records


def test_after_a_run_was_killed_the_same_command_runs(workdir: Path, start: Command) -> None:
    cache = workdir / "cache"
    arguments = (*QUICK, "task.hidden=[1024,1024]", "train.epochs=8", "benchmark.seconds=3", f"cache_dir={cache}")

    training = start(*arguments)
    seen_until(training, "train     float mnist")
    training.kill()
    assert ended(training)[0] == -signal.SIGKILL
    assert entries(cache) == []

    measuring = start(*arguments)
    said = seen_until(measuring, "measure   latency")
    measuring.kill()
    assert ended(measuring)[0] == -signal.SIGKILL
    assert TRAINED.search(said)  # nothing of the first one was taken for a model
    assert len(entries(cache)) == 1

    status, stdout, stderr = ended(start(*arguments))
    assert status == 0, stderr
    assert LOADED.search(stderr)
    assert "Accuracy (%)" in stdout
    assert len(entries(cache)) == 1
    assert Counter(run.info.status for run in runs_in(workdir)) == {"KILLED": 2, "FINISHED": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_a_run_with_130_and_closes_it_as_killed(
    workdir: Path, start: Command, number: signal.Signals
) -> None:
    child = start(*LONG, f"cache_dir={workdir}/cache")
    seen_until(child, "train     float mnist")
    child.send_signal(number)
    status, stdout, stderr = ended(child)
    assert status == 130
    assert stderr.endswith("quantexp: interrupted\n")
    assert "Traceback" not in stderr
    assert stdout == ""
    (run,) = runs_in(workdir)
    assert (run.info.status, run.data.tags["error"]) == ("KILLED", "interrupted")
    assert run.info.end_time is not None
    assert entries(workdir / "cache") == []
    assert {path.suffix for path in (workdir / "cache" / "models").iterdir()} <= {".lock"}


@pytest.mark.parametrize("sweep", [(), ("-m",)], ids=["run", "sweep"])
@pytest.mark.parametrize("after", [0.3, 1.5])
def test_a_command_that_is_interrupted_in_its_imports_ends_in_one_line(
    workdir: Path, start: Command, after: float, sweep: tuple[str, ...]
) -> None:
    child = start(*sweep, *LONG, f"cache_dir={workdir}/cache")
    time.sleep(after)
    wait_until_it_listens(child)
    child.send_signal(signal.SIGINT)
    status, stdout, stderr = ended(child)
    assert status == 130
    assert stderr.splitlines()[-1] == "quantexp: interrupted"
    assert "Traceback" not in stderr
    assert stdout == ""


@pytest.mark.parametrize("command", ["doctor", "report", "reproduce"])
def test_the_other_commands_end_in_one_line_too(workdir: Path, command: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", f"quantexp.{command}", *([] if command == "doctor" else ["some"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until_it_listens(child)
    child.send_signal(signal.SIGINT)
    status, stdout, stderr = ended(child)
    assert (status, stdout) == (130, "")
    assert stderr.removeprefix("checking this machine ...\n") in (
        f"quantexp{by}: interrupted\n" for by in ("", ".report")
    )


def test_an_interrupt_inside_generated_code_ends_with_130_too(tmp_path: Path) -> None:
    # What dataclasses and others generate runs in exec(): Python notes that an interrupt left it, and at its end would
    # kill itself with the signal, unless something else ran in exec() since.
    (tmp_path / "hydra.py").write_text("exec('raise KeyboardInterrupt')")
    done = subprocess.run(
        [sys.executable, "-m", "quantexp"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (130, "quantexp: interrupted\n")


def test_an_interrupt_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    # torch calls Python from C++ while it is imported, and C++ that does not expect an error ends with SIGABRT.
    (tmp_path / "slow.py").write_text("import time; time.sleep(1); print('imported whole', flush=True)")
    done = interrupted_after(0.3, "import slow; time.sleep(60)", tmp_path)
    assert (done.returncode, done.stdout) == (130, "imported whole\n")


def test_an_import_that_does_not_end_is_interrupted_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    assert interrupted_after(0.3, "interrupt.LONGEST_WAIT = 0.5; import slow", tmp_path).returncode == 130


def test_an_interrupt_that_is_lost_is_repeated(tmp_path: Path) -> None:
    code = "interrupt.ARRIVES_IN = 0.5\ntry: time.sleep(60)\nexcept: print('lost', flush=True)\ntime.sleep(60)"
    done = interrupted_after(0.3, code, tmp_path)
    assert (done.returncode, done.stdout) == (130, "lost\n")


def test_what_is_done_after_an_interrupt_arrived_is_not_interrupted(tmp_path: Path) -> None:
    code = (
        "interrupt.ARRIVES_IN = 0.2\ntry:\n  with interrupt.guard(): time.sleep(60)\n"
        "except KeyboardInterrupt: time.sleep(1); print('closed', flush=True); raise"
    )
    done = interrupted_after(0.3, code, tmp_path)
    assert (done.returncode, done.stdout) == (130, "closed\n")


def interrupted_after(seconds: float, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code that listens, from the time on when it does, and send it SIGINT after some seconds."""
    listening = "import sys, time\nfrom quantexp.system import interrupt\ninterrupt.listen()\nprint(file=sys.stderr)"
    body = "\n".join(f"  {line}" for line in code.splitlines())
    command = f"{listening}\ntry:\n{body}\nexcept KeyboardInterrupt: sys.exit(130)"
    child = subprocess.Popen(
        [sys.executable, "-c", command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    child.stderr.readline()
    time.sleep(seconds)
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(command, child.returncode, stdout, stderr)


def test_a_sweep_that_is_interrupted_shows_what_it_has(workdir: Path, start: Command) -> None:
    child = start("-m", *QUICK, "task.hidden=[512,512]", "train.epochs=2,2000", f"cache_dir={workdir}/cache")
    seen_until(child, "run 2", "train     float mnist")
    child.send_signal(signal.SIGINT)
    status, stdout, stderr = ended(child)
    assert status == 130
    assert stderr == "quantexp: interrupted\n"
    (table,) = workdir.glob("multirun/*/table.csv")
    assert len(table.read_text().splitlines()) == 2  # the header and the one run that ended
    assert f"the whole report: {table.parent.relative_to(workdir)}/report.html" in stdout
    assert f"1 of 2 combinations remain; run the same command with sweep.name={table.parent.name} to resume" in stdout
    assert Counter(run.info.status for run in runs_in(workdir)) == {"FINISHED": 1, "KILLED": 1}
    assert len(entries(workdir / "cache")) == 1


@pytest.mark.exhaustive
def test_runs_that_start_together_train_once_and_are_all_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Command
) -> None:
    monkeypatch.chdir(tmp_path)  # without a store: whoever is first makes it
    arguments = (*QUICK, "task.hidden=[256]", "train.epochs=5", f"cache_dir={tmp_path}/cache")
    ends = [ended(child) for child in [start(*arguments) for _ in range(4)]]
    assert [status for status, _, _ in ends] == [0] * 4, "".join(stderr for _, _, stderr in ends)
    trained = [stderr for _, _, stderr in ends if TRAINED.search(stderr)]
    loaded = [stderr for _, _, stderr in ends if LOADED.search(stderr)]
    assert (len(trained), len(loaded)) == (1, 3)
    assert [stderr for _, _, stderr in ends if "Traceback" in stderr or "warning" in stderr] == []
    runs = runs_in(tmp_path)
    assert Counter(run.info.status for run in runs) == {"FINISHED": 4}
    assert len({run.data.metrics["accuracy"] for run in runs}) == 1
    assert len(entries(tmp_path / "cache")) == 1

"""A job in a process of its own: what it inherits, and what is left when it or its worker is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from quantexp.config import Experiment, NoQuant, Sensitivity, Single, Static
from quantexp.config import SweepSettings as Settings
from quantexp.config.tracking import Local
from quantexp.runner import running, sweep
from quantexp.runner.described import described, restored
from quantexp.runner.identity import configuration_digest
from quantexp.runner.isolated import OUTCOME, perform_isolated
from quantexp.runner.jobs import JobOutcome, Ongoing, Plan, State, read_outcomes
from quantexp.runner.running import LOST, Mark, report_lost, wait_for_jobs
from quantexp.runner.tracked import Request
from quantexp.system.errors import CacheError
from quantexp.tracking.names import ERROR, PROCESS
from quantexp.tracking.processes import mark
from quantexp.tracking.store import RunFacts, open_store

PATIENCE = 120.0  # seconds
PLAN = Plan({"a": "seed=0", "b": "seed=1"})
STARTED = JobOutcome(State.running, "seed=0", 0)

Sample = Callable[..., Experiment]


@pytest.fixture
def begun(workdir: Path) -> Path:
    """The directory of a sweep that has begun."""
    sweep.begin(
        workdir / "night",
        Local(),
        Settings(name="night"),
        PLAN,
        "python -m quantexp -m seed=0,1",
    )
    return workdir / "night"


def request_of(folder: Path) -> Request:
    choices = {"task": "mnist", "model": "mlp", "quant": "none", "benchmark": "paired"}
    return Request(choices, ["seed=0"], OmegaConf.to_yaml({"seed": 0}), Ongoing.read(folder).parent)


def runs() -> list[RunFacts]:
    return list(open_store(Local()).search("params.quant != ''"))


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_an_experiment_is_the_same_after_it_was_described(sample: Sample) -> None:
    for changed in (
        sample(quant=Static(calibration_examples=7), seed=3),
        sample(study=Sensitivity(), tracking=Local(experiment="other", store_model=False)),
    ):
        assert restored(json.loads(json.dumps(described(changed)))) == changed


def test_a_lost_job_is_a_failed_combination_with_its_reason(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "QUIET_SECONDS", 0.0)
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    Mark.write(begun, "b", ended.pid)
    JobOutcome(State.running, "seed=1", 1).claim(begun, "b")
    store = open_store(Local())
    run = store.client.create_run(store.experiment_id, tags={PROCESS: mark(ended.pid)}).info.run_id
    ended.kill()
    ended.communicate()
    lost = wait_for_jobs(begun)
    assert [each.digest for each in lost] == ["b"]
    report_lost(begun, Local(), lost)
    assert read_outcomes(begun) == {"b": JobOutcome(State.failed, "seed=1", 1, LOST)}
    facts = store.run(run)
    assert (facts.status, facts.tags[ERROR]) == ("FAILED", LOST)
    assert not list(Mark.all(begun))


def test_a_job_of_another_host_is_lost_when_its_mark_is_not_touched_any_more(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(running, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(running, "POLL_SECONDS", 0.02)
    made = Mark.write(begun, "a", os.getpid())
    elsewhere = {**json.loads(made.process), "host": "node7"}
    made.path.write_text(json.dumps({"process": json.dumps(elsewhere)}), encoding="utf-8")
    stop = threading.Event()

    def touch() -> None:
        for step in range(10):
            os.utime(made.path, (step, step))
            time.sleep(0.1)
        stop.set()

    threading.Thread(target=touch).start()
    assert [each.digest for each in wait_for_jobs(begun)] == ["a"]
    assert stop.is_set(), "it was given up although its worker was alive"


def test_a_sweep_whose_jobs_still_run_is_not_begun_again(begun: Path) -> None:
    job = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    Mark.write(begun, "b", job.pid)
    JobOutcome(State.running, "seed=1", 1).claim(begun, "b")
    begin = partial(
        sweep.begin,
        begun,
        Local(),
        Settings(name="night"),
        PLAN,
        "python -m quantexp -m seed=0,1",
    )
    try:
        with pytest.raises(CacheError, match=r"1 jobs of the sweep in .* still run, as seed=1;"):
            begin()
    finally:
        job.kill()
        job.communicate()
    begin()
    assert not list(Mark.all(begun))


@pytest.mark.slow
def test_the_process_of_a_job_has_the_threads_of_its_settings_not_those_of_its_worker(
    begun: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen: dict[str, str] = {}

    def look() -> None:
        wait_for(lambda: list(Mark.all(begun)))
        for each in Mark.all(begun):
            seen.update(psutil.Process(json.loads(each.process)["pid"]).environ())

    watcher = threading.Thread(target=look)
    watcher.start()
    experiment = sample(quant=NoQuant(), batch_size=[1])
    outcome = perform_isolated(STARTED, experiment, request_of(begun), begun, "a")
    watcher.join()
    assert outcome == replace(STARTED, state=State.done, configuration=configuration_digest(experiment))
    assert "OMP_NUM_THREADS" not in seen
    assert seen["PATH"] == os.environ["PATH"]
    assert [run.status for run in runs()] == ["FINISHED"]


@pytest.mark.slow
def test_a_killed_process_is_a_failed_combination_and_its_run_says_so(begun: Path, sample: Sample) -> None:
    def kill() -> None:
        wait_for(lambda: [run for run in runs() if run.status == "RUNNING"])
        (each,) = Mark.all(begun)
        os.kill(json.loads(each.process)["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = perform_isolated(STARTED, sample(quant=NoQuant(), seed=7), request_of(begun), begun, "a")
    killer.join()
    assert outcome.state is State.failed
    assert "SIGKILL" in str(outcome.error)
    (run,) = runs()
    assert (run.status, run.tags[ERROR]) == ("FAILED", outcome.error)
    assert not list(Mark.all(begun))


@pytest.mark.slow
def test_the_process_of_a_job_ends_with_its_worker(begun: Path, sample: Sample) -> None:
    task = {
        "started": asdict(STARTED),
        "experiment": described(sample(quant=NoQuant(), seed=8, study=Single())),
        "request": {**vars(request_of(begun)), "tags": {}},
        "sweep": str(begun),
        "answer": str(begun / OUTCOME),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "quantexp.runner.isolated"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    print(json.dumps(task), file=child.stdin, flush=True)
    wait_for(lambda: [run for run in runs() if run.status == "RUNNING"])
    child.stdin.close()  # as the kernel does if the worker is killed
    assert child.wait(PATIENCE) == 130
    assert [run.status for run in runs()] == ["KILLED"]
    assert not (begun / OUTCOME).exists()
    if child.stderr is not None:
        child.stderr.close()

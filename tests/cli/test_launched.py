"""Sweeps with each launcher that is installed: equal results, and what happens when a process is killed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from operator import ge
from pathlib import Path

import pytest

from quantexp.config import Local
from quantexp.runner.running import LOST
from quantexp.tracking.names import ERROR
from quantexp.tracking.store import RunFacts, open_store

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.extras

PLUGINS = {
    "joblib": "hydra_joblib_launcher",
    "submitit_local": "hydra_submitit_launcher",
    "ray": "hydra_ray_launcher",
}
THERE = find_spec("hydra_plugins") is not None
INSTALLED = [name for name, plugin in PLUGINS.items() if THERE and find_spec(f"hydra_plugins.{plugin}") is not None]
QUICK = ("data=sample", "benchmark=quick", "batch_size=1", "train.epochs=1", "train.threads=2", "sweep.name=night")
PATIENCE = 300  # seconds
NEW = {"PYTHONUNBUFFERED": "1"}  # a process started anew: the pools of launchers end as Python does

VICTIM = '''
"""A network that kills its process, or the worker above, as the file `victim` in the working directory says."""
import os
import pathlib
import signal

from torch import nn


class Victim(nn.Sequential):
    def __init__(self, inputs, classes, number):
        super().__init__(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, classes))
        name = pathlib.Path("victim")
        if number == 1 and name.exists():
            os.kill({"process": os.getpid(), "worker": os.getppid()}[name.read_text()], signal.SIGKILL)
            signal.pause()
'''
VICTIMS = "model.arguments={number: 0},{number: 1},{number: 2}"


@pytest.fixture
def victim(workdir: Path) -> Path:
    (workdir / "victims.py").write_text(VICTIM, encoding="utf-8")
    return workdir / "victim"


def runs() -> list[RunFacts]:
    return list(open_store(Local()).search("params.quant != ''"))


def rows(folder: Path) -> list[str]:
    text = (folder / "multirun" / "night" / "table.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("| mnist")]


def number(run: RunFacts) -> str:
    return run.params["model.arguments.number"]


@pytest.mark.parametrize("launcher", INSTALLED)
def test_a_launcher_gives_the_accuracies_sizes_and_threads_of_the_basic_one(
    launcher: str, workdir: Path, quantexp: Command
) -> None:
    found: dict[str, dict[str, tuple[float, float, int]]] = {}
    for name in ("basic", launcher):
        command = ("-m", *QUICK[:-1], f"sweep.name={name}", "quant=none,dynamic", "sweep.resume=false")
        done = quantexp(*command, f"hydra/launcher={name}", "seed=5", timeout=PATIENCE, **NEW)
        assert done.returncode == 0, done.stderr
        found[name] = {}
        for path in (workdir / "multirun" / name).glob("full.csv"):
            header, *lines = path.read_text(encoding="utf-8").splitlines()
            assert len(lines) == 2, header
    results = {}
    for run in runs():
        report = json.loads((workdir / "mlartifacts" / run.run_id / "artifacts" / "report.json").read_bytes())
        results.setdefault(run.params["quant"], set()).add(
            (run.metrics["accuracy"], run.metrics["size_mb"], report["threads"])
        )
    assert {quant: len(different) for quant, different in results.items()} == {"none": 1, "dynamic": 1}


@pytest.mark.parametrize("launcher", INSTALLED)
@pytest.mark.usefixtures("workdir")
def test_a_killed_process_costs_one_combination_and_is_not_run_again_by_itself(
    launcher: str, victim: Path, quantexp: Command
) -> None:
    command = ("-m", *QUICK, f"hydra/launcher={launcher}", "quant=none", "model=custom", "model.target=victims.Victim")
    victim.write_text("process", encoding="utf-8")
    done = quantexp(*command, VICTIMS, timeout=PATIENCE, **NEW)
    assert done.returncode == 1
    assert "1 of 3 combinations failed" in done.stderr
    states = {number(run): (run.status, run.tags.get(ERROR, "")) for run in runs()}
    assert len(runs()) == 3, "it was run again"
    assert sorted(status for status, _ in states.values()) == ["FAILED", "FINISHED", "FINISHED"]
    assert any("SIGKILL" in row for row in rows(victim.parent))
    victim.unlink()
    again = quantexp(*command, VICTIMS, timeout=PATIENCE, **NEW)
    assert again.returncode == 0, again.stderr
    assert len(runs()) == 4, "what was finished was run again"
    assert len(rows(victim.parent)) == 3


@pytest.mark.parametrize("launcher", INSTALLED)
@pytest.mark.usefixtures("workdir")
def test_a_killed_worker_is_told_and_the_same_command_completes_the_table(
    launcher: str, victim: Path, quantexp: Command
) -> None:
    command = ("-m", *QUICK, f"hydra/launcher={launcher}", "quant=none", "model=custom", "model.target=victims.Victim")
    victim.write_text("worker", encoding="utf-8")
    done = quantexp(*command, VICTIMS, timeout=PATIENCE, **NEW)
    assert done.returncode == 1
    assert "the sweep ended before all of its jobs" in done.stderr
    killed = [run for run in runs() if number(run) == "1"]
    assert [(run.status, run.tags[ERROR]) for run in killed] == [("FAILED", LOST)]
    assert any(LOST in row for row in rows(victim.parent))
    finished = {run.run_id for run in runs() if run.finished}
    victim.unlink()
    again = quantexp(*command, VICTIMS, timeout=PATIENCE, **NEW)
    assert again.returncode == 0, again.stderr
    assert finished < {run.run_id for run in runs() if run.finished}
    assert len([run for run in runs() if run.finished]) == 3, "what was finished was run again"
    assert len(rows(victim.parent)) == 3


@pytest.mark.skipif(not THERE or find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="no Optuna")
@pytest.mark.usefixtures("workdir")
def test_optuna_searches_resumes_with_recorded_values_and_the_report_names_the_best(quantexp: Command) -> None:
    command = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "sweep.objective=size", *QUICK)
    command += ("quant=none", "task.hidden=choice([8],[16],[24])")
    done = quantexp(*command, timeout=PATIENCE, **NEW)
    assert done.returncode == 0, done.stderr
    tried = {run.params["model.hidden"]: run for run in runs()}
    assert len(tried) == len(runs()), "a combination was run twice"
    best = min(tried.values(), key=lambda run: run.metrics["size_mb"])
    shown = " ".join(done.stdout.split())  # lines are folded
    assert f"Best by size: {best.name} (size " in shown
    assert f"run {best.run_id})" in shown
    assert "[I " not in done.stderr, "Optuna's own lines"
    again = quantexp(*command, timeout=PATIENCE, **NEW)
    assert again.returncode == 0, again.stderr
    assert len(runs()) == len(tried), "a finished trial was run again"


@pytest.mark.skipif(not THERE or find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="no Optuna")
@pytest.mark.usefixtures("workdir")
def test_a_trial_that_fails_does_not_end_the_study(quantexp: Command) -> None:
    done = quantexp(
        *("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "sweep.objective=accuracy", *QUICK),
        *("quant=none", "train.learning_rate=choice(1e30,1e-3)"),
        timeout=PATIENCE,
        **NEW,
    )
    assert done.returncode == 1
    assert {run.status for run in runs()} == {"FAILED", "FINISHED"}
    assert "Best by accuracy" in done.stdout


@pytest.mark.skipif(not THERE or find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="no Optuna")
@pytest.mark.usefixtures("workdir")
def test_a_search_with_two_objectives_names_the_runs_on_the_pareto_front(quantexp: Command) -> None:
    done = quantexp(
        *("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "sweep.objective=[accuracy,size]", *QUICK),
        *("quant=none", "task.hidden=choice([4],[16],[64])"),
        timeout=PATIENCE,
        **NEW,
    )
    assert done.returncode == 0, done.stderr
    points = {run.run_id: (run.metrics["accuracy"], -run.metrics["size_mb"]) for run in runs()}
    front = {
        run_id
        for run_id, point in points.items()
        if not any(other != point and all(map(ge, other, point)) for other in points.values())
    }
    text = " ".join(done.stdout.split())
    assert set(re.findall(r"On the Pareto front of accuracy, size: [^;]*; run (\w+)\)", text)) == front

"""How OpenMP's threads wait: set before torch is imported, unless the user did; recorded; said where it is too late."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from quantexp.config import Device, Experiment, Train
from quantexp.mission import load
from quantexp.system import openmp
from quantexp.system.environment import record, usable_cores
from quantexp.system.openmp import GNU, OTHERS, SPIN_COUNT, waiting, warn_of_spinning
from quantexp.tasks.data import TaskData
from quantexp.training.loop import fit

PATIENCE = 240  # seconds until a command that hangs is given up
REPRODUCE = """
from quantexp.reproduce import main
try:
    main(["0" * 32])  # there is no store, which is an error
except SystemExit:
    import torch
"""
COMMANDS = {
    "run": ("-m", "quantexp", "data=sample", "quant=none"),
    "sweep": ("-m", "quantexp", "-m", "data=sample", "quant=none,dynamic"),
    "reproduce": ("-c", REPRODUCE),
    "doctor": ("-m", "quantexp.doctor"),
}
JOB = """
from quantexp.cli.hooks import job
try:
    job(None)  # as a launcher of Hydra calls it in a worker; here there is no job, which is an error
except ValueError:
    import torch
"""
TRAINED = """
import hashlib, torch
from quantexp import mission, models
from quantexp.config import DataSource, Device, Experiment, Train
from quantexp.training.loop import fit
experiment = Experiment(data=DataSource.sample, train=Train(device=Device.cpu, threads=2))
data = mission.load(experiment)
torch.manual_seed(0)
model = models.build(experiment.model, data.inputs, data.classes)
fit(model, data.train, data.objective, experiment.train, seed=0, label="train")
print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest())
"""


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in an empty folder, with the variables given and none else that says how threads wait."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        rest = {name: value for name, value in os.environ.items() if name not in (*GNU, *OTHERS)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**rest, **variables},
        )

    return run


@pytest.fixture
def seen(python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> Callable[..., list[str | None]]:
    """Return what the variables of GNU OpenMP are when torch is first imported, where the process then ends."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "torch.py").write_text(
        f"import json, os\nprint(json.dumps([os.environ.get(n) for n in {GNU}]))\nos._exit(7)"
    )

    def ask(*arguments: str, **variables: str) -> list[str | None]:
        path = os.pathsep.join([str(fake), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = python(*arguments, PYTHONPATH=path, PYTHONUNBUFFERED="1", **variables)
        assert done.returncode == 7, done.stderr
        values: list[str | None] = json.loads(done.stdout.splitlines()[-1])
        return values

    return ask


@pytest.fixture
def spinning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that loaded GNU OpenMP with nothing set, and has not said so yet."""
    for name in (*GNU, *OTHERS):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "maps").write_text("7f00-7f01 r-xp 00000000 00:00 0 /torch/lib/libgomp.so.1\n", encoding="utf-8")
    monkeypatch.setattr(openmp, "MAPS", tmp_path / "maps")
    warn_of_spinning.cache_clear()
    yield
    warn_of_spinning.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_trains_sets_the_spin_count_before_torch_is_imported(
    seen: Callable[..., list[str | None]], command: str
) -> None:
    assert seen(*COMMANDS[command]) == [SPIN_COUNT, None]


def test_a_worker_of_a_sweep_that_inherits_nothing_sets_it_too(seen: Callable[..., list[str | None]]) -> None:
    assert seen("-c", JOB) == [SPIN_COUNT, None]


def test_a_program_sets_it_by_the_public_function(seen: Callable[..., list[str | None]]) -> None:
    assert seen("-c", "import quantexp, os; quantexp.share_cores(); import torch") == [SPIN_COUNT, None]


def test_importing_quantexp_alone_sets_nothing(seen: Callable[..., list[str | None]]) -> None:
    assert seen("-c", "import quantexp, quantexp.config, torch") == [None, None]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_WAIT_POLICY": "active"}, [None, "active"]),
        ({"GOMP_SPINCOUNT": "5"}, ["5", None]),
        ({"KMP_BLOCKTIME": "0"}, [SPIN_COUNT, None]),  # which GNU OpenMP does not read
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_user_has_set_stays_as_it_is(
    seen: Callable[..., list[str | None]], variables: dict[str, str], expected: list[str | None]
) -> None:
    assert seen(*COMMANDS["run"], **variables) == expected


def test_nothing_is_set_after_torch_was_imported(python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = (
        "import torch, quantexp; quantexp.share_cores(); from quantexp.system.openmp import waiting; print(waiting())"
    )
    assert python("-c", code).stdout == "{}\n"


def test_the_record_of_a_run_names_the_variables_that_are_set() -> None:
    assert record()["openmp"] == waiting()
    assert waiting().keys() & set(GNU)  # the tests set it for themselves


@pytest.mark.exhaustive
def test_the_weights_do_not_depend_on_how_threads_wait(
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    spun, yielding = python("-c", TRAINED), python("-c", TRAINED, GOMP_SPINCOUNT=SPIN_COUNT)
    assert (spun.returncode, yielding.returncode) == (0, 0), spun.stderr + yielding.stderr
    assert len(spun.stdout) == 65
    assert spun.stdout == yielding.stdout


def trained_with(threads: int, data: TaskData) -> None:
    network = nn.Linear(data.inputs[0].values, data.classes)
    fit(network, data.test, data.objective, recipe(threads), seed=0, label="train")


def recipe(threads: int) -> Train:
    return Train(epochs=1, batch_size=256, device=Device.cpu, threads=threads)


@pytest.mark.skipif(usable_cores() < 2, reason="one core takes one thread")
def test_training_says_once_what_to_set_if_torch_was_imported_first(
    spinning: None, sample: Callable[..., Experiment], caplog: pytest.LogCaptureFixture
) -> None:
    data = load(sample())
    trained_with(1, data)
    assert caplog.messages == []  # one thread waits for nobody
    trained_with(2, data)
    trained_with(2, data)
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert f"set GOMP_SPINCOUNT={SPIN_COUNT} before Python starts" in said.getMessage()
    assert "call quantexp.share_cores() before torch is imported" in said.getMessage()


def test_nothing_is_said_where_the_user_has_chosen(
    spinning: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    warn_of_spinning()
    assert caplog.messages == []


@pytest.mark.parametrize("maps", ["7f00-7f01 r-xp 0 /torch/lib/libomp.so\n", None], ids=["another", "unknown"])
def test_nothing_is_said_of_another_openmp(
    spinning: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, maps: str | None
) -> None:
    if maps is None:
        (tmp_path / "maps").unlink()
    else:
        (tmp_path / "maps").write_text(maps, encoding="utf-8")
    warn_of_spinning()
    assert caplog.messages == []

"""The command in unusual surroundings: no working directory, a thread, a notebook, a reader that has enough."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IN_A_THREAD = """
import sys, threading
from quantexp.__main__ import main
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""
CALL = "from quantexp.__main__ import main; main()"
NOTEBOOKS = {
    "kernel": "import sys; sys.argv, sys.ps1 = ['ipykernel', '-f', 'kernel.json'], '>>> '; ",
    "without arguments": "import sys; sys.argv, sys.ps1 = [''], '>>> '; ",
    "kernel without a prompt": "import sys, types; sys.modules['ipykernel'] = types.ModuleType('ipykernel'); ",
    "with settings": "import sys; sys.argv, sys.ps1 = ['ipykernel', 'data=sample'], 'In [1]: '; ",
}


def python(*arguments: str, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    command = f"cd '{folder}' && {before} exec \"$@\""
    root = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = ["bash", "-c", command, "bash", sys.executable, *arguments]
    return subprocess.run(words, capture_output=True, text=True, env=root, timeout=60)


@pytest.mark.parametrize(
    "command",
    ["quantexp data=sample", "quantexp -m seed=0,1", "quantexp.report night", "quantexp.sync", "quantexp.doctor",
     "quantexp.reproduce abc"],
)  # fmt: skip
def test_a_working_directory_that_is_gone_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "gone").mkdir()
    done = python("-m", *command.split(), folder=tmp_path / "gone", before="rmdir ../gone;")
    assert done.returncode in (1, 2)
    assert "the working directory must exist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["seed=-1"], "seed must be at least 0, got -1"),
        (["-m", "seed=1,-1"], "seed must be at least 0, got -1  (in seed=-1)"),
        (["task=nope"], "task cannot be nope"),
        (["--cfg", "job"], "epochs: "),
    ],
)
def test_the_command_works_in_a_thread(tmp_path: Path, arguments: list[str], shown: str) -> None:
    done = python("-c", IN_A_THREAD, *arguments, folder=tmp_path)
    assert shown in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_told_what_to_call(tmp_path: Path, name: str) -> None:
    done = python("-c", NOTEBOOKS[name] + CALL, folder=tmp_path)
    assert done.returncode == 2
    assert "call quantexp.run(quantexp.Experiment(...))" in done.stderr
    assert "unrecognized arguments" not in done.stderr


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
@pytest.mark.parametrize("mode", ["hydra.mode=RUN", "+hydra.mode=RUN", "++hydra.mode=RUN", "hydra.mode='RUN'"])
def test_a_sweep_and_a_single_run_exclude_each_other(tmp_path: Path, flag: str, mode: str) -> None:
    done = python("-m", "quantexp", flag, mode, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "quantexp: -m is a sweep, hydra.mode=RUN a single run; leave out one of them\n"


def test_a_committed_sweep_is_not_run_as_a_single_run(tmp_path: Path) -> None:
    done = python("-m", "quantexp", "experiment=lab", "hydra.mode=RUN", folder=tmp_path)
    assert done.returncode == 2
    assert "hydra.mode=RUN is a single run" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["quantexp --help", "quantexp --cfg job", "quantexp --hydra-help", "quantexp --info searchpath",
     "quantexp.doctor --help", "quantexp.gate --help", "quantexp.reproduce --help"],
)  # fmt: skip
def test_a_reader_that_has_enough_is_no_error(tmp_path: Path, command: str) -> None:
    into = "exec > >(exec 0<&-; sleep 5); sleep 0.2;"
    done = python("-m", *command.split(), folder=tmp_path, before=into)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_help_on_a_full_disk_is_an_error_in_words(tmp_path: Path) -> None:
    done = python("-m", "quantexp", "--help", folder=tmp_path, before="exec > /dev/full;")
    assert done.returncode == 1
    assert done.stderr == "quantexp: the output cannot be printed (No space left on device)\n"

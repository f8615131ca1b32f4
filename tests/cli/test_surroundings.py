"""The command in unusual surroundings: no working directory, a thread, a notebook, a reader that has enough."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IN_A_THREAD = """
import sys, threading
sys.argv = ["quantexp", "seed=-1"]
from quantexp.__main__ import main
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""
IN_A_NOTEBOOK = """
import sys
sys.argv, sys.ps1 = ["ipykernel", "-f", "kernel.json"], ">>> "
from quantexp.__main__ import main
main()
"""


def python(*arguments: str, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    command = f"cd '{folder}' && {before} exec \"$@\""
    root = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = ["bash", "-c", command, "bash", sys.executable, *arguments]
    return subprocess.run(words, capture_output=True, text=True, env=root, timeout=60)


def test_a_working_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = python("-m", "quantexp", "data=sample", folder=tmp_path / "gone", before="rmdir ../gone;")
    assert done.returncode == 2
    assert "the working directory must exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_works_in_a_thread(tmp_path: Path) -> None:
    done = python("-c", IN_A_THREAD, folder=tmp_path)
    assert "seed must be at least 0, got -1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_notebook_is_told_what_to_call(tmp_path: Path) -> None:
    done = python("-c", IN_A_NOTEBOOK, folder=tmp_path)
    assert done.returncode == 2
    assert "call quantexp.run(quantexp.Experiment(...))" in done.stderr
    assert "unrecognized arguments" not in done.stderr


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_sweep_and_a_single_run_exclude_each_other(tmp_path: Path, flag: str) -> None:
    done = python("-m", "quantexp", flag, "hydra.mode=RUN", folder=tmp_path)
    assert done.returncode == 2
    assert "-m is a sweep, hydra.mode=RUN a single run" in done.stderr


def test_a_committed_sweep_is_not_run_as_a_single_run(tmp_path: Path) -> None:
    done = python("-m", "quantexp", "experiment=lab", "hydra.mode=RUN", folder=tmp_path)
    assert done.returncode == 2
    assert "hydra.mode=RUN is a single run" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--hydra-help"], ["--info", "searchpath"]])
def test_a_reader_that_has_enough_is_no_error(tmp_path: Path, arguments: list[str]) -> None:
    into = "exec > >(exec 0<&-; sleep 5); sleep 0.2;"
    done = python("-m", "quantexp", *arguments, folder=tmp_path, before=into)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_help_on_a_full_disk_is_an_error_in_words(tmp_path: Path) -> None:
    done = python("-m", "quantexp", "--help", folder=tmp_path, before="exec > /dev/full;")
    assert done.returncode == 1
    assert done.stderr == "quantexp: the output cannot be printed (No space left on device)\n"

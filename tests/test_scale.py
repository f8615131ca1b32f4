"""Large networks and many examples: the memory of whole runs, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL, LARGE = "64,64", ",".join(["2048"] * 6)
FEW, MANY, BYTES = 1_000, 200_000, 784  # examples, and the bytes of one

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a part of a run"
    ),
]


def script(name: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


def peak(folder: Path, hidden: str, method: str) -> tuple[int, int]:
    """The bytes of the float weights, and the peak of a run without timing."""
    file = folder / f"{hidden.count(',')}.safetensors"
    weights = int(script("bench_memory", "--hidden", hidden, "--write", str(file), folder=folder))
    settings = [f"task.hidden=[{hidden}]", f"train.checkpoint={file}", f"quant={method}", "benchmark=quick"]
    found = json.loads(script("bench_memory", "--run", "data=synthetic", *settings, "cache_dir=cache", folder=folder))
    return weights, found["run"]


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_run_takes_at_most_three_times_the_float_weights_in_memory(tmp_path: Path, method: str) -> None:
    (few, small), (many, large) = (peak(tmp_path, hidden, method) for hidden in (SMALL, LARGE))
    assert many == 4 * (400 * 2048 + 5 * 2048 * 2048 + 2048 * 10 + 6 * 2048 + 10)
    assert (large - small) / (many - few) < 3


def test_the_memory_of_a_run_does_not_grow_with_the_examples_that_are_read_from_disk(tmp_path: Path) -> None:
    counts = ["--few", str(FEW), "--many", str(MANY), "--pairs", "0"]
    growth = next(line for line in script("bench_examples", *counts, folder=tmp_path).splitlines() if "grows" in line)
    assert float(growth.split()[4]) < BYTES / 2

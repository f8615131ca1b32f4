"""The wheel holds all that the command needs, the committed configs and the sample data among it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unzipped(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(unzipped: Path, elsewhere: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in another directory, with the unzipped wheel before any other quantexp."""
    settings = {key: value for key, value in os.environ.items() if key != "QUANTEXP_DATA_DIR"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=elsewhere,
        env={**settings, "PYTHONPATH": str(unzipped)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_committed_config_and_sample_is_in_the_wheel_as_committed(wheel: Path) -> None:
    expected = {f"quantexp/{path.relative_to(ROOT).as_posix()}": path for path in (ROOT / "conf").rglob("*.yaml")}
    samples = ROOT / "quantexp" / "tasks" / "sample" / "sst2"
    expected |= {path.relative_to(ROOT).as_posix(): path for path in samples.glob("*.tsv")}
    assert "quantexp/conf/config.yaml" in expected
    assert {"quantexp/tasks/sample/sst2/train.tsv", "quantexp/tasks/sample/sst2/dev.tsv"} <= set(expected)
    with zipfile.ZipFile(wheel) as archive:
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes()


def test_every_module_is_in_the_wheel_and_nothing_else_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "quantexp").rglob("*.py")} <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"quantexp"}
    assert [name for name in names if name.endswith(".pyc")] == []


def test_the_command_runs_from_the_wheel_with_the_configs_in_it(unzipped: Path, tmp_path: Path) -> None:
    code = "import quantexp, quantexp.cli.schemas as store; print(quantexp.__file__); print(store.conf_dir())"
    used = run(unzipped, tmp_path, "-c", code)
    assert used.stdout.splitlines() == [
        str(unzipped / "quantexp" / "__init__.py"),
        str(unzipped.resolve() / "quantexp" / "conf"),
    ]

    done = run(unzipped, tmp_path, "-m", "quantexp", "--cfg", "job", "quant=qat")
    assert done.returncode == 0, done.stderr
    config = OmegaConf.create(done.stdout)
    assert config.quant.start == "trained"  # a setting that only qat has
    assert config.task.hidden == [1024, 1024]
    assert list(tmp_path.iterdir()) == []


def test_the_help_from_the_wheel_lists_the_configs_in_it(unzipped: Path, tmp_path: Path) -> None:
    done = run(unzipped, tmp_path, "-m", "quantexp", "--help")
    assert done.returncode == 0, done.stderr
    assert "benchmark=paired|lab|fine|quick" in done.stdout

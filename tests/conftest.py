"""What the tests share: a cache that lasts one test run, a store template, the command, the real data."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantexp.system.openmp import share_cores

share_cores()  # before torch is imported: tests run beside each other, and train

from quantexp.config import DataSource, Experiment, Paired  # noqa: E402
from tests.command import CommandServer  # noqa: E402

# Tests that want the real data ask for it by the fixture. Workers inherit the second name, which no run reads.
if (named := os.environ.pop("QUANTEXP_DATA_DIR", None)) is not None:
    os.environ["QUANTEXP_TEST_DATA_DIR"] = named
REAL_DATA = os.environ.get("QUANTEXP_TEST_DATA_DIR")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory shared by the whole test run, so that each sample model is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store: migrating a fresh one takes seconds, copying this one does not."""
    from quantexp.config import Local
    from quantexp.tracking.store import open_store

    folder = tmp_path_factory.mktemp("store")
    before = Path.cwd()
    os.chdir(folder)
    try:
        open_store(Local(experiment="template"))
    finally:
        os.chdir(before)
    return folder / "mlflow.db"


@pytest.fixture
def workdir(tmp_path: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, with an MLflow store in it, entered."""
    shutil.copy(store_template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    """Put the log of quantexp back, which Hydra configures where a command runs in this process."""
    log = logging.getLogger("quantexp")
    before = log.level, log.propagate, list(log.handlers)
    yield
    log.level, log.propagate, log.handlers = before
    log.manager._clear_cache()


@pytest.fixture
def sample(cache: Path) -> Callable[..., Experiment]:
    """Build an experiment on the sample data with the quick benchmark; keywords replace its parts."""

    def build(**parts: object) -> Experiment:
        settings: dict[str, object] = {
            "data": DataSource.sample,
            "cache_dir": str(cache),
            "benchmark": Paired(placements=2, seconds=0.02),
            "batch_size": [1, 8],
        }
        return Experiment(**{**settings, **parts})  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="session")
def commands() -> Iterator[CommandServer]:
    """A process that has imported what the command needs."""
    server = CommandServer()
    yield server
    server.close()


@pytest.fixture
def quantexp(cache: Path, commands: CommandServer) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in the current directory: `quantexp("data=sample", "quant=qat")`.

    With changes of the environment it starts Python anew; they may concern imports.
    """

    def run(*arguments: str, timeout: float = 180, **environment: str) -> subprocess.CompletedProcess[str]:
        cached = [] if any("cache_dir=" in text for text in arguments) else [f"cache_dir={cache}"]
        if {"--help", "--cfg", "--info"} & set(arguments):
            cached = []
        if not environment:
            return commands.run([*arguments, *cached], timeout)
        return subprocess.run(
            [sys.executable, "-m", "quantexp", *arguments, *cached],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture(scope="session")
def real_data() -> str:
    """The folder of the real data sets; the tests that need it are skipped where it is not given."""
    if REAL_DATA is None:
        pytest.skip("QUANTEXP_DATA_DIR names no folder with the real data")
    return str(Path(REAL_DATA).resolve())

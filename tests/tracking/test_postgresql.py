"""A store for several: MLflow's server with PostgreSQL and a login, as `scripts/serve_store` starts it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantexp.config.tracking import Server
from quantexp.system.errors import TrackingError
from quantexp.tracking.names import PARENT, RESULT
from quantexp.tracking.store import Store, open_store

pytestmark = [pytest.mark.extras, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PATIENCE = 240
QUICK = ("data=sample", "benchmark=quick", "batch_size=1", "train.epochs=1", "task.hidden=[8]", "quant=none")
WRITERS, RUNS = 8, 3


class Served:
    """The server of scripts/serve_store, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, str(ROOT / "scripts" / "serve_store"), str(self.folder), "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if line.startswith("serving "):
                return
        raise AssertionError(said)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=PATIENCE)
            self._process = None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)
        self._process = None

    @property
    def runs(self) -> bool:
        """Whether one of both servers still runs."""
        with socket.socket() as probe:
            listens = probe.connect_ex(("127.0.0.1", self.port)) == 0
        return listens or (self.folder / "postgresql" / "postmaster.pid").exists()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": (self.folder / "password").read_text(encoding="utf-8"),
        }


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server that runs; its folder can be entered by the user postgres."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    if not (shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))):
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="quantexp-served-"))
    folder.chmod(0o711)
    server = Served(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store(served: Served, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of the server, with the login in the environment."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(Server(uri=served.address))


def sweep(served: Served, folder: Path, *settings: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    place = ("tracking=server", f"tracking.uri={served.address}")
    return subprocess.Popen(
        [sys.executable, "-m", "quantexp", "-m", *QUICK, *place, *settings],
        cwd=folder,
        env={**os.environ, **served.environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_a_login_the_server_is_refused_with_the_setting_for_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    with pytest.raises(TrackingError, match=r"wants another user or token.*MLFLOW_TRACKING_USERNAME"):
        open_store(Server(uri=served.address))


def test_no_run_of_eight_writers_is_lost(served: Served, store: Store, tmp_path: Path) -> None:
    seeds = f"seed={','.join(map(str, range(RUNS)))}"
    cache = f"cache_dir={tmp_path / 'cache'}"
    writers = [sweep(served, tmp_path / str(n), seeds, f"sweep.name=writer-{n}", cache) for n in range(WRITERS)]
    ended = [writer.communicate(timeout=PATIENCE) for writer in writers]
    for writer, (_, err) in zip(writers, ended, strict=True):
        assert writer.returncode == 0, err
        assert "kept" not in err
    parents = {run.run_id: run.name for run in store.search("tags.`quantexp.kind` = 'sweep'")}
    runs = [run for run in store.search("attributes.status = 'FINISHED'") if run.tags.get(PARENT) in parents]
    found = Counter((parents[run.tags[PARENT]], run.params["seed"]) for run in runs)
    assert found == Counter({(f"sweep writer-{n}", str(seed)): 1 for n in range(WRITERS) for seed in range(RUNS)})
    assert all("accuracy" in run.metrics for run in runs)


def test_a_server_that_is_stopped_and_started_again_has_every_result_once(
    served: Served, store: Store, tmp_path: Path
) -> None:
    settings = ("seed=10,11,12,13", "sweep.name=stopped", f"cache_dir={tmp_path / 'cache'}")
    child = sweep(served, tmp_path, *settings)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("run 2"):
            break
    served.stop()
    _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 1, err
    assert "kept, not delivered yet" in err and "Traceback" not in err
    served.start()
    again = sweep(served, tmp_path, *settings)
    _, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, err
    assert err.count("skip      finished before") == 4
    (parent,) = store.search("tags.`quantexp.sweep` = 'stopped'")
    runs = list(store.search(f"tags.`{PARENT}` = '{parent.run_id}'"))
    assert Counter((run.status, run.params["seed"]) for run in runs) == Counter(
        {("FINISHED", str(seed)): 1 for seed in (10, 11, 12, 13)}
    )
    assert len({run.tags[RESULT] for run in runs}) == 4
    for run in runs:
        assert len(store.client.get_metric_history(run.run_id, "accuracy")) == 1


def test_a_server_that_is_killed_leaves_no_process_and_can_be_started_again(served: Served, store: Store) -> None:
    store.client.create_run(store.experiment_id, run_name="before")
    assert served.runs
    served.kill()
    until = time.monotonic() + PATIENCE
    while served.runs:
        assert time.monotonic() < until
        time.sleep(0.1)
    served.start()
    assert [run.name for run in store.search("attributes.run_name = 'before'")] == ["before"]

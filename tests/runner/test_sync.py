"""`python -m quantexp.sync` delivers what waits, and a sweep whose server went away loses nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quantexp import sync as command
from quantexp.config import Dynamic, Experiment, Mlp, Train
from quantexp.config.tracking import Local, Server
from quantexp.mission import run
from quantexp.results.metrics import metrics
from quantexp.runner.identity import identity_of
from quantexp.runner.single import rescue
from quantexp.runner.tracked import Request, log_result, tracked_run
from quantexp.system.errors import TrackingError
from quantexp.tracking.names import PARENT
from quantexp.tracking.outbox import outbox_of, waiting
from quantexp.tracking.store import Store, open_store

Command = Callable[..., "subprocess.CompletedProcess[str]"]

DEAD = "http://127.0.0.1:9"
PATIENCE = 120
CHOICES = {"task": "mnist", "model": "mlp", "quant": "dynamic"} | dict.fromkeys(("train", "benchmark"), "default")
QUICK = ("data=sample", "benchmark=quick", "batch_size=1", "train.epochs=1", "task.hidden=[8]")


@pytest.fixture
def store(workdir: Path) -> Store:
    """The store of a working directory of its own."""
    return open_store(Local())


@pytest.fixture
def quick(sample: Callable[..., Experiment], workdir: Path) -> Experiment:
    """An experiment that takes a second, whose results wait beside the store."""
    away = Server(uri=DEAD, keep_in=str(workdir / "cache"))
    return sample(quant=Dynamic(), model=Mlp(hidden=[8]), train=Train(epochs=1, threads=1), tracking=away)


def test_a_run_whose_server_does_not_answer_is_refused_before_training(quick: Experiment) -> None:
    request = Request(CHOICES, [], "seed: 0\n")
    with pytest.raises(TrackingError, match="does not answer"), tracked_run(quick, request):
        raise AssertionError("the work has started")
    assert waiting(outbox_of(quick.tracking)) == []


def test_a_run_of_a_sweep_whose_server_went_away_is_run_kept_and_delivered(
    store: Store, quick: Experiment, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    parent = store.client.create_run(store.experiment_id).info.run_id
    result = run(quick)
    identity = identity_of(quick, result.report.data.fingerprint)
    with tracked_run(quick, Request(CHOICES, [], "seed: 0\n", parent)) as tracked:
        log_result(tracked, result, identity)
    told = [record.getMessage() for record in caplog.records if "is kept, not delivered yet" in record.getMessage()]
    assert len(told) == 1 and "python -m quantexp.sync" in told[0] and "\n" not in told[0]
    assert capsys.readouterr().out == ""

    outbox = str(outbox_of(quick.tracking))
    with pytest.raises(SystemExit) as ended:
        command.main([outbox])
    assert ended.value.code == 1
    assert "does not answer" in capsys.readouterr().err

    command.main([outbox, "--tracking-uri", store.uri])
    assert "1 of 1 results delivered" in capsys.readouterr().out
    command.main([outbox, "--tracking-uri", store.uri])
    assert f"nothing waits in {outbox}" in capsys.readouterr().out

    (delivered,) = store.search(f"tags.`{PARENT}` = '{parent}'")
    assert delivered.finished
    assert delivered.metrics.items() >= {n: round(v, 6) for n, v in metrics(result.report).items()}.items()
    folder = Path("mlartifacts", delivered.run_id, "artifacts")
    assert {"config.yaml", "report.json", "identity.json", "model"} <= {path.name for path in folder.iterdir()}


def test_the_file_of_a_result_that_could_not_be_recorded_is_delivered_once(
    store: Store, quick: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(quick).report
    assert rescue(report).startswith("The result is kept in ")
    (file,) = Path.cwd().glob("quantexp-report-*.json")
    for _ in range(2):
        command.main([str(file)])
    assert capsys.readouterr().out.count("1 of 1 results delivered") == 2
    (delivered,) = store.search("")
    assert (delivered.status, delivered.finished) == ("FINISHED", False)  # without its identity it resumes nothing
    assert delivered.metrics["accuracy"] == round(metrics(report)["accuracy"], 6)
    assert Path("mlartifacts", delivered.run_id, "artifacts", "report.json").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [(None, 2, "does not exist; name a kept result"), ("{}", 1, "is not a report of quantexp")],
)
def test_a_path_that_is_no_result_is_said(
    workdir: Path, capsys: pytest.CaptureFixture[str], content: str | None, status: int, told: str
) -> None:
    if content is not None:
        Path("given.json").write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        command.main(["given.json"])
    assert ended.value.code == status
    assert told in capsys.readouterr().err


# -- a server that is stopped and started again ------------------------------------------------------------


class MlflowServer:
    """MLflow's own server with a SQLite store, which can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--backend-store-uri", f"sqlite:///{self._folder / 'runs.db'}", "--port", str(self._port)]
        options += ["--artifacts-destination", str(self._folder / "artifacts"), "--workers", "1"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", *options],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
            )
        until = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None and time.monotonic() < until, (self._folder / "log").read_text()
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, store_template: Path) -> Iterator[MlflowServer]:
    """A server that runs."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "runs.db").write_bytes(store_template.read_bytes())
    started = MlflowServer(folder)
    started.start()
    yield started
    started.stop()


@contextmanager
def sweeping(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A sweep that runs; its messages can be read."""
    child = subprocess.Popen(
        [sys.executable, "-m", "quantexp", "-m", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate(timeout=PATIENCE)


def read_until(child: subprocess.Popen[str], stage: str) -> str:
    assert child.stderr is not None
    said = ""
    for line in child.stderr:
        said += line
        if line.startswith(stage):
            return said
    raise AssertionError(f"it ended before {stage!r}:\n{said}")


@pytest.mark.slow
def test_a_server_that_is_stopped_in_the_middle_of_a_sweep_gets_every_result_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantexp: Command, server: MlflowServer
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = f"cache_dir={tmp_path / 'cache'}"
    settings = (*QUICK, "quant=none", "seed=0,1,2,3", "sweep.name=night", cache)
    store = ("tracking=server", f"tracking.uri={server.address}")
    with sweeping(*settings, *store) as child:
        read_until(child, "run 2")
        read_until(child, "data")
        server.stop()
        _, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 1, err  # the report lacks results
    assert err.count("is kept, not delivered yet") == 3
    assert "3 results are kept, not delivered yet" in err
    assert "Traceback" not in err

    server.start()
    again = quantexp("-m", *settings, *store)
    assert again.returncode == 0, again.stderr
    assert "delivered 4 runs that waited for their store" in again.stderr
    assert again.stderr.count("skip      finished before") == 4  # nothing is run again
    opened = open_store(Server(uri=server.address))
    runs = [found for found in opened.search("") if PARENT in found.tags]
    assert Counter(found.status for found in runs) == {"FINISHED": 4}
    assert len({found.params["seed"] for found in runs}) == 4
    for found in runs:
        assert len(opened.client.get_metric_history(found.run_id, "accuracy")) == 1
    assert len((tmp_path / "multirun" / "night" / "table.csv").read_text().splitlines()) == 5


@pytest.mark.slow
def test_a_server_that_comes_back_during_the_sweep_gets_what_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: MlflowServer
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = (*QUICK, "quant=none", "seed=0,1,2,3", "sweep.name=night", f"cache_dir={tmp_path / 'cache'}")
    with sweeping(*settings, "tracking=server", f"tracking.uri={server.address}") as child:
        read_until(child, "run 1")
        server.stop()
        read_until(child, "warning: mnist-sample-none-fp32-s0")
        child.send_signal(signal.SIGSTOP)  # the sweep takes less time than the server to start
        server.start()
        child.send_signal(signal.SIGCONT)
        _, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, err
    opened = open_store(Server(uri=server.address))
    runs = [found for found in opened.search("") if PARENT in found.tags]
    assert Counter(found.status for found in runs) == {"FINISHED": 4}
    (parent,) = opened.search("tags.`quantexp.kind` = 'sweep'")
    assert parent.status == "FINISHED"
    assert len((tmp_path / "multirun" / "night" / "table.csv").read_text().splitlines()) == 5


@pytest.mark.slow
def test_a_single_run_whose_server_goes_away_says_so_and_the_next_run_delivers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: MlflowServer
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = (*QUICK, "quant=none", f"cache_dir={tmp_path / 'cache'}")
    store = ("tracking=server", f"tracking.uri={server.address}")
    program = [sys.executable, "-m", "quantexp", *settings, *store]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        read_until(child, "data")
        server.stop()
        out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 1
    assert "accuracy" in out.lower()  # its table
    assert "is kept, not delivered yet" in err and "Traceback" not in err
    server.start()
    ended = subprocess.run([*program, "seed=1"], capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert "delivered 1 runs that waited for their store" in ended.stderr
    assert Counter(found.status for found in open_store(Server(uri=server.address)).search("")) == {"FINISHED": 2}

"""The tracking store: made once, checked for life before a run, and never shown a password."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import quantexp as package
from quantexp.config import DataSource, Experiment, Local, Mnist, Server
from quantexp.mission import load
from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password
from quantexp.tracking.address import resolve_uri, sqlite_path
from quantexp.tracking.registry import CONTENT
from quantexp.tracking.store import open_store
from quantexp.training.loop import outputs

Command = Callable[..., "subprocess.CompletedProcess[str]"]

PATIENCE = 240  # seconds until what hangs is given up
AT_ONCE = 5  # processes
CLOSED = "http://127.0.0.1:9"  # the discard port: nobody listens
OPEN_AND_RECORD = """
from quantexp.config import Local
from quantexp.tracking.store import open_store
store = open_store(Local())
run = store.client.create_run(store.experiment_id)
store.client.log_metric(run.info.run_id, "accuracy", 0.5)
store.client.set_terminated(run.info.run_id)
print(store.experiment_id)
"""


# -- SQLite ----------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_processes_that_make_the_same_store_at_once_all_succeed(tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_RECORD],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(AT_ONCE)
    ]
    told = [child.communicate(timeout=PATIENCE) for child in children]
    assert [child.returncode for child in children] == [0] * AT_ONCE, "".join(stderr for _, stderr in told)
    assert len({stdout for stdout, _ in told}) == 1  # all file under the same experiment
    store = open_store(Server(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"))
    runs = store.client.search_runs([store.experiment_id])
    assert [(run.info.status, run.data.metrics) for run in runs] == [("FINISHED", {"accuracy": 0.5})] * AT_ONCE
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("SELECT name FROM experiments WHERE name = 'quantexp'").fetchall() == [("quantexp",)]


REGISTER_AND_FIND_NO_SERVER = """
store.client.create_registered_model("digits")
store.client.create_model_version("digits", "file:///nowhere", run.info.run_id)
store.client.set_registered_model_alias("digits", "best", "1")
from quantexp.config import Server
from quantexp.system.errors import TrackingError
from quantexp.tracking.store import read_store
with read_store(None, "quantexp") as read:
    assert read.client.get_model_version_by_alias("digits", "best").run_id == run.info.run_id
for opened in (open_store, lambda tracking: read_store(tracking.uri, "quantexp").__enter__()):
    try:
        opened(Server(uri="http://127.0.0.1:9"))
    except TrackingError:
        print("does not answer")
"""


@pytest.mark.slow
def test_mlflow_and_its_libraries_print_nothing_between_our_lines(tmp_path: Path) -> None:
    program = OPEN_AND_RECORD + REGISTER_AND_FIND_NO_SERVER
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["does not answer", "does not answer"]


def test_a_store_is_made_where_there_is_none_and_opened_where_there_is(workdir: Path) -> None:
    first = open_store(Local(experiment="mine"))
    again = open_store(Local(experiment="mine"))
    other = open_store(Local(experiment="other"))
    assert first.experiment_id == again.experiment_id != other.experiment_id
    assert first.uri == f"sqlite:///{workdir / 'mlflow.db'}"


def test_artifacts_lie_beside_the_database(workdir: Path) -> None:
    store = open_store(Local())
    experiment = store.client.get_experiment(store.experiment_id)
    assert experiment.artifact_location == (workdir / "mlartifacts").as_uri()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///mlflow.db", "{cwd}/mlflow.db"),
        ("sqlite:///below/mlflow.db", "{cwd}/below/mlflow.db"),
        ("sqlite:////data/mlflow.db", "/data/mlflow.db"),
    ],
    ids=["relative", "below", "absolute"],
)
def test_a_relative_path_is_meant_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = path.format(cwd=tmp_path)
    assert sqlite_path(uri) == Path(expected)
    assert resolve_uri(uri) == f"sqlite:///{expected}"
    assert resolve_uri(resolve_uri(uri)) == resolve_uri(uri)


@pytest.mark.parametrize("uri", ["http://host:5000", "https://host", "postgresql://user@host/runs"])
def test_other_addresses_are_left_as_they_are(uri: str) -> None:
    assert sqlite_path(uri) is None
    assert resolve_uri(uri) == uri


def test_a_store_that_moved_with_its_directory_is_still_opened(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_store(Local()).experiment_id
    moved = tmp_path_factory.mktemp("moved") / "here"
    workdir.rename(moved)
    monkeypatch.chdir(moved)
    after = open_store(Local())
    assert after.experiment_id == before
    assert after.uri == f"sqlite:///{moved / 'mlflow.db'}"
    moved.rename(workdir)  # where pytest looks for it


@pytest.mark.parametrize("name", ["with space", "50%", "hash#", "ümlaut"])
def test_a_directory_may_have_any_ordinary_name(
    workdir: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (workdir / name).mkdir()
    monkeypatch.chdir(workdir / name)
    Path("mlflow.db").write_bytes(store_template.read_bytes())
    open_store(Local(experiment="found"))
    with closing(sqlite3.connect("mlflow.db")) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM experiments")}
    assert "found" in names
    assert {path.name for path in workdir.iterdir()} == {name, "mlflow.db"}


def test_a_directory_whose_name_an_address_cannot_hold_is_refused(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "what?").mkdir()
    monkeypatch.chdir(workdir / "what?")
    with pytest.raises(TrackingError, match="must not contain a question mark"):
        open_store(Local())


def test_a_deleted_experiment_is_refused_and_can_be_restored(workdir: Path) -> None:
    store = open_store(Local())
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(
        TrackingError, match=rf"'quantexp'.*is deleted.*mlflow experiments restore -x {store.experiment_id}"
    ):
        open_store(Local())
    store.client.restore_experiment(store.experiment_id)
    assert open_store(Local()).experiment_id == store.experiment_id


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "file:mlruns", "mlruns"])
def test_plain_folders_are_refused(workdir: Path, uri: str) -> None:
    tracking = Server(uri=CLOSED)
    tracking.uri = uri
    with pytest.raises(TrackingError, match=r"no longer records in plain folders, got .*mlruns; use sqlite:////path"):
        open_store(tracking)
    assert not Path("mlruns").exists()


def test_a_store_in_memory_is_refused_because_it_would_be_lost() -> None:
    with pytest.raises(TrackingError, match="sqlite://"):
        open_store(Server(uri="sqlite://"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not a database, but long enough to be read" * 100, "is damaged, or is not a SQLite store .*move it away"),
        (None, "cannot be read as a SQLite store .*directory"),
    ],
    ids=["text", "folder"],
)
def test_a_file_that_is_no_sqlite_store_is_refused(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "mlflow.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(TrackingError, match=rf"{path} {told}"):
        open_store(Server(uri=f"sqlite:///{path}"))


def test_a_store_of_another_version_of_mlflow_is_refused(workdir: Path) -> None:
    with closing(sqlite3.connect("mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.commit()
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used.*ffffffffffff.*repair it"):
        open_store(Local())


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(TrackingError, match=r"/no/such/folder/mlflow\.db, but there is no folder /no/such/folder"):
        open_store(Server(uri="sqlite:////no/such/folder/mlflow.db"))


def test_reading_a_run_where_no_store_lies_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match=rf"there is no store {tmp_path}/mlflow\.db.*tracking_uri="):
        package.load("0123456789abcdef0123456789abcdef")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_run_that_the_store_does_not_have_says_so(workdir: Path) -> None:
    with pytest.raises(TrackingError, match="has no run '0123456789abcdef0123456789abcdef'"):
        package.load("0123456789abcdef0123456789abcdef")


# -- passwords -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:secret@host:5000", "http://user:***@host:5000"),
        ("postgresql://user:secret@host:5432/runs", "postgresql://user:***@host:5432/runs"),
        ("mysql+pymysql://:secret@host/runs", "mysql+pymysql://:***@host/runs"),
        ("http://user@host:5000", "http://user@host:5000"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_the_password_of_an_address_is_starred(address: str, shown: str) -> None:
    assert without_password(address) == shown
    assert without_password(f"at {address} and {address}") == f"at {shown} and {shown}"


def test_what_is_no_text_has_no_password() -> None:
    assert [without_password(value) for value in (3, None, ["a"])] == [3, None, ["a"]]


@pytest.mark.parametrize(
    "uri", ["http://user:secret@127.0.0.1:9", "postgresql+nodriver://user:secret@127.0.0.1:9/runs"]
)
def test_no_error_shows_the_password(uri: str) -> None:
    with pytest.raises(TrackingError) as refusal:
        open_store(Server(uri=uri))
    assert "secret" not in str(refusal.value)


# -- servers ---------------------------------------------------------------------------------------------


def test_a_server_that_is_dead_is_found_out_at_once() -> None:
    with pytest.raises(
        TrackingError, match=rf"{CLOSED} does not.*start it, correct tracking.uri, or use tracking=local"
    ):
        open_store(Server(uri=CLOSED))


@pytest.mark.parametrize(
    "uri",
    [
        "http://",
        "http://127.0.0.1:notaport",
    ],
)
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(TrackingError, match=uri):
        open_store(Server(uri=uri))


@pytest.mark.slow
def test_a_server_that_speaks_no_http_is_refused() -> None:
    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"220 mail.example ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=answer, args=(listening,))
        answering.start()
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            with pytest.raises(TrackingError, match=uri):
                open_store(Server(uri=uri))
        finally:
            answering.join(PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, store_template: Path) -> Iterator[str]:
    """A server of MLflow's own on the loopback address, with a store and artifacts of its own."""
    folder = tmp_path_factory.mktemp("server")
    database = folder / "runs.db"
    database.write_bytes(store_template.read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = ["--backend-store-uri", f"sqlite:///{database}", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options, "--workers", "1"],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
        )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the server and its workers: a session of their own
        process.wait(PATIENCE)


@pytest.mark.slow
def test_a_run_is_recorded_on_a_server_and_its_model_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantexp: Command, server: str
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("data=sample", "benchmark=quick", "batch_size=1", "train.epochs=1", "task.hidden=[8]", "quant=dynamic")
    done = quantexp(*small, "tracking=server", f"tracking.uri={server}", "tracking.experiment=remote")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []  # all of it lies on the server

    store = open_store(Server(uri=server, experiment="remote"))
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["tracking.uri"] == server
    assert run.inputs.dataset_inputs[0].dataset.name == "mnist (sample)"
    artifacts = {entry.path for entry in store.client.list_artifacts(run.info.run_id)}
    figures = {
        f"{name}.csv" for name in ("classes", "confusion", "layer_losses", "layers", "operators", "samples", "time")
    }
    files = {"config.yaml", "environment.json", "identity.json", "model", "pictures", "report.json", "table.md"}
    assert artifacts - {"energy.csv"} == files | figures  # that one only where the machine counts energy
    assert f"in {server}" in done.stdout
    assert f"open {server}/#/experiments/{store.experiment_id}/runs/{run.info.run_id}" in done.stdout

    test = load(Experiment(task=Mnist(), data=DataSource.sample)).test
    model = package.load(run.info.run_id, tracking_uri=server)
    correct = int((outputs(model, test).argmax(1) == test.labels).sum())
    assert round(correct / len(test), 6) == run.data.metrics["accuracy"]


def check_ui(server: str) -> None:
    """Check what MLflow's UI shows of the registered version: it asks the server for exactly this."""

    def content(path: str, /, **query: str) -> bytes:
        with urllib.request.urlopen(f"{server}/{path}?{urllib.parse.urlencode(query)}", timeout=PATIENCE) as answer:
            return bytes(answer.read())

    def api(path: str, /, **query: str) -> Any:
        return json.loads(content(f"ajax-api/2.0/mlflow/{path}", **query))

    version = api("model-versions/get", name="digits", version="1")["model_version"]
    assert (version["name"], version["version"], version["status"]) == ("digits", "1", "READY")
    assert version["description"].startswith("From the sweep best: the only network that keeps the bounds: ")
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert {"quant": "dynamic", "sweep": "best", "quantexp.run": version["run_id"]}.items() <= tags.items()
    assert api("registered-models/get", name="digits")["registered_model"]["aliases"] == [
        {"alias": "best", "version": "1"}
    ]
    run = api("runs/get", run_id=version["run_id"])["run"]  # the link of the version, and back
    assert run["info"]["run_name"].startswith("mnist-sample-dynamic-int8-s0")
    (linked,) = api("model-versions/search", filter=f"run_id = '{version['run_id']}'")["model_versions"]
    assert (linked["name"], linked["version"]) == ("digits", "1")
    recipe = content("model-versions/get-artifact", path="recipe.json", name="digits", version="1")
    assert hashlib.sha256(recipe).hexdigest() == tags[CONTENT]


@pytest.mark.slow
def test_the_best_network_of_a_sweep_is_registered_on_a_server_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantexp: Command, server: str
) -> None:
    from quantexp.gate import main as gate
    from quantexp.register import main as register

    monkeypatch.chdir(tmp_path)
    place = ("tracking=server", f"tracking.uri={server}", "tracking.experiment=best")
    small = ("data=sample", "benchmark=quick", "batch_size=1", "train.epochs=1", "task.hidden=[8]", *place)
    done = quantexp("-m", *small, "quant=none,dynamic", "sweep.name=best")
    assert done.returncode == 0, done.stderr
    where = ("--tracking-uri", server, "--experiment", "best")
    register(["best", "--name", "digits", "--within", "0.9", *where])
    assert package.load("models:/digits@best", tracking_uri=server)(torch.zeros(2, 400)).shape == (2, 10)
    check_ui(server)
    with pytest.raises(SystemExit) as left:
        gate(["best", "--max-size-mb", "9", *where])
    assert left.value.code == 0
    refused = quantexp(*small, "quant=none", "train.checkpoint=models:/digits@best")
    assert refused.returncode == 2
    float_run = re.search(r"its float network with train\.checkpoint=(runs:/\w+)", refused.stderr)
    assert float_run, refused.stderr
    started = quantexp(*small, "quant=static", f"train.checkpoint={float_run[1]}")
    assert started.returncode == 0, started.stderr


@pytest.mark.slow
def test_a_server_behind_a_user_and_password_is_reached(server: str) -> None:
    guarded = server.replace("http://", "http://user:secret@")
    assert open_store(Server(uri=guarded)).uri == guarded

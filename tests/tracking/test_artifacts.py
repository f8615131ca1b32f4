"""What a store may say, and what is done with it: known files, in a folder of ours, and nothing outside."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from torch import nn

import quantexp
from quantexp.config import Dynamic, Experiment, Local, Mlp, NoQuant, Train
from quantexp.mission import load
from quantexp.runner.load import model_folder
from quantexp.storage.stored import save
from quantexp.system.errors import ModelError, TrackingError
from quantexp.tracking import artifacts
from quantexp.tracking.artifacts import read_artifact
from quantexp.tracking.store import Store, open_store, read_store

RUN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def store(workdir: Path) -> Store:
    """The store of a working directory of its own."""
    return open_store(Local())


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made: a folder that is empty before and must be so after."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def recorded(store: Store, sample: Callable[..., Experiment], tmp_path: Path) -> tuple[str, nn.Module]:
    """A run of the store with an int8 model and a report; its id, and the model."""
    experiment = sample(quant=Dynamic(), model=Mlp(hidden=[16]), train=Train(epochs=1, threads=1))
    result = quantexp.run(experiment)
    save(tmp_path / "kept" / "model", result.model, result.recipe)
    (tmp_path / "kept" / "report.json").write_text('{"a": 1}', encoding="utf-8")
    run_id = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_artifacts(run_id, str(tmp_path / "kept"))
    shutil.rmtree(tmp_path / "kept")
    return run_id, result.model


def folder_of(run_id: str) -> Path:
    return Path.cwd() / "mlartifacts" / run_id / "artifacts"


def move_to(run_id: str, address: str) -> None:
    """Let the artifacts of a run lie somewhere else: not beside the store, which says where."""
    if folder_of(run_id).exists():
        folder_of(run_id).rename("moved away")
    with closing(sqlite3.connect("mlflow.db")) as connection:
        connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (address, run_id))
        connection.commit()


def everything_below(folder: Path) -> dict[Path, bytes | None]:
    """The content of every file, to see that nothing changed; the store itself is left out, for reading logs in it."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if not path.name.startswith(("mlflow.db", ".mlflow.db"))
    }


# -- what is honest --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["{}", "runs:/{}"])
def test_a_run_gives_its_model_back_bit_for_bit(recorded: tuple[str, nn.Module], scratch: Path, reference: str) -> None:
    run_id, model = recorded
    inputs = torch.linspace(-1, 1, 64 * 400).view(64, 400)
    with torch.no_grad():
        assert torch.equal(quantexp.load(reference.format(run_id))(inputs), model(inputs))
    assert list(scratch.iterdir()) == []


def test_an_artifact_is_read_by_its_path(store: Store, recorded: tuple[str, nn.Module], scratch: Path) -> None:
    assert read_artifact(store, store.run(recorded[0]), "report.json") == b'{"a": 1}'
    assert (
        json.loads(read_artifact(store, store.run(recorded[0]), "model/recipe.json"))["options"]["precision"] == "int8"
    )
    assert list(scratch.iterdir()) == []


def test_an_artifact_that_is_not_there_is_an_error_that_names_it(store: Store, recorded: tuple[str, nn.Module]) -> None:
    for path in ("absent.json", "model"):
        with pytest.raises(
            TrackingError, match=rf"{path} of run {recorded[0]} cannot be read \(the run did not store it"
        ):
            read_artifact(store, store.run(recorded[0]), path)


def test_a_folder_of_artifacts_may_have_any_ordinary_name(recorded: tuple[str, nn.Module], tmp_path: Path) -> None:
    run_id, _ = recorded
    odd = tmp_path / "50% of #1 ünd"
    for address in (odd.as_uri(), str(odd)):
        move_to(run_id, address)
        if not odd.exists():
            Path("moved away").rename(odd)
        quantexp.load(run_id)


def test_a_run_without_a_model_is_an_error_that_says_so(store: Store) -> None:
    run_id = store.client.create_run(store.experiment_id).info.run_id
    with pytest.raises(TrackingError, match=rf"model/recipe\.json of run {run_id} cannot be read \(there is no folder"):
        quantexp.load(run_id)


# -- folders that are not --------------------------------------------------------------------------------


def test_only_the_files_of_a_model_are_fetched(recorded: tuple[str, nn.Module]) -> None:
    run_id, _ = recorded
    model = folder_of(run_id) / "model"
    (model / "quantexp.py").write_text("raise SystemExit", encoding="utf-8")
    (model / "more").mkdir()
    (model / "more" / "recipe.json").write_text("{}", encoding="utf-8")
    with model_folder(run_id, None) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["recipe.json", "state.pt"]


@pytest.mark.parametrize("name", ["recipe.json", "state.pt", "vocabulary.txt"])
def test_a_link_out_of_the_run_is_not_followed(
    recorded: tuple[str, nn.Module], tmp_path: Path, scratch: Path, name: str
) -> None:
    run_id, _ = recorded
    secret = tmp_path / "secret"
    secret.write_text("hers", encoding="utf-8")
    link = folder_of(run_id) / "model" / name
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    with pytest.raises(
        TrackingError, match=rf"an artifact must lie below its run, 'model/{name}' is a link to {secret}"
    ):
        quantexp.load(run_id)
    assert list(scratch.iterdir()) == []


def test_a_folder_that_is_a_link_out_of_the_run_is_not_followed(
    recorded: tuple[str, nn.Module], tmp_path: Path
) -> None:
    model = folder_of(recorded[0]) / "model"
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrackingError, match="an artifact must lie below its run"):
        quantexp.load(recorded[0])


def test_a_pipe_is_no_file_and_is_not_waited_for(store: Store, recorded: tuple[str, nn.Module]) -> None:
    os.mkfifo(folder_of(recorded[0]) / "pipe")
    with pytest.raises(TrackingError, match="the run did not store it"):
        read_artifact(store, store.run(recorded[0]), "pipe")


def test_a_file_that_is_too_large_is_left_where_it_lies(store: Store, recorded: tuple[str, nn.Module]) -> None:
    assert read_artifact(store, store.run(recorded[0]), "report.json", most=8) == b'{"a": 1}'
    with pytest.raises(TrackingError, match=r"report\.json may have 7 bytes, it has 8"):
        read_artifact(store, store.run(recorded[0]), "report.json", most=7)
    with (folder_of(recorded[0]) / "model" / "recipe.json").open("ab") as file:
        file.truncate(2**20 + 1)  # a hole: no bytes on the disk
    with pytest.raises(TrackingError, match=r"model/recipe\.json may have 1,048,576 bytes, it has 1048577"):
        quantexp.load(recorded[0])


@pytest.mark.parametrize("path", ["../report.json", "model/../../x", "/etc/passwd", ".", ""])
def test_a_path_that_leaves_the_run_is_refused(store: Store, recorded: tuple[str, nn.Module], path: str) -> None:
    with pytest.raises(TrackingError, match="an artifact must lie below its run"):
        read_artifact(store, store.run(recorded[0]), path)


def test_a_recipe_that_names_a_class_of_another_package_runs_nothing(
    store: Store, recorded: tuple[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hers").mkdir()
    (tmp_path / "hers" / "evil_networks.py").write_text(
        "import pathlib; pathlib.Path(__file__).with_name('ran').touch()", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path / "hers")
    run_id, _ = recorded
    store.client.set_tag(run_id, "mlflow.runName", "<script>alert(1)</script>\x1b]0;evil\x07")
    recipe = folder_of(run_id) / "model" / "recipe.json"
    described = json.loads(recipe.read_text(encoding="utf-8"))
    for model in (
        {"_target_": "evil_networks.Net"},
        {"name": "custom", "target": "evil_networks.Net", "arguments": {}},
        {"name": "mlp", "hidden": [16], "_target_": "evil_networks.Net"},
    ):
        described["options"]["model"] = model
        recipe.write_text(json.dumps(described), encoding="utf-8")
        before = everything_below(tmp_path)
        with pytest.raises(ModelError, match=r"uses 'evil_networks\.Net', whose code would be executed; .*trust=True"):
            quantexp.load(run_id)
        assert everything_below(tmp_path) == before
    assert not (tmp_path / "hers" / "ran").exists()


# -- addresses that are not ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("file:///etc", "the run did not store it"),
        ("file:///dev/fd", "the run did not store it"),
        ("file://elsewhere/etc", "a folder of artifacts must have an absolute path on this machine"),
        ("", "a folder of artifacts must have an absolute path on this machine"),
        ("../..", "a folder of artifacts must have an absolute path on this machine"),
        ("file:relative", "a folder of artifacts must have an absolute path on this machine"),
        ("http://127.0.0.1:9/artifacts", "these lie at 'http://127.0.0.1:9/artifacts'"),
        ("mlflow-artifacts://127.0.0.1:9/1", "these lie at 'mlflow-artifacts://127.0.0.1:9/1'"),
        ("ftp://user:secret@127.0.0.1:9/x", r"these lie at 'ftp://user:\*\*\*@127.0.0.1:9/x'"),
        ("runs:/0123/x", "these lie at 'runs:/0123/x'"),
        ("models:/theirs/1", "these lie at 'models:/theirs/1'"),
        ("javascript:alert(1)", "these lie at"),
    ],
)
def test_an_address_that_leads_elsewhere_is_not_followed(
    recorded: tuple[str, nn.Module], tmp_path: Path, scratch: Path, address: str, told: str
) -> None:
    run_id, _ = recorded
    move_to(run_id, address)
    before = everything_below(tmp_path)
    with pytest.raises(TrackingError, match=told):
        quantexp.load(run_id)
    assert everything_below(tmp_path) == before
    assert list(scratch.iterdir()) == []


# -- servers that are not --------------------------------------------------------------------------------


class Hostile(http.server.BaseHTTPRequestHandler):
    """A tracking server that says what a test wants it to say."""

    listed: list[dict[str, Any]]
    files: dict[str, bytes]
    address = f"mlflow-artifacts:/1/{RUN}/artifacts"

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        prefix = f"/api/2.0/mlflow-artifacts/artifacts/1/{RUN}/artifacts/"
        if path.endswith("/mlflow/runs/get"):
            self.answer(json.dumps({"run": {"info": {"run_id": RUN, "artifact_uri": self.address}}}).encode())
        elif path.endswith("/mlflow-artifacts/artifacts"):
            model = query.get("path", [""])[0].endswith("/model")
            self.answer(json.dumps({"files": self.listed if model else []}).encode())
        elif path.startswith(prefix) and (name := path.removeprefix(prefix)) in self.files:
            self.answer(self.files[name])
        else:
            self.send_error(404)

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that gives whatever `Hostile` is told to."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_address[1]}"
        finally:
            serving.shutdown()
            thread.join()


def test_a_server_gives_a_model_back(
    server: str, monkeypatch: pytest.MonkeyPatch, sample: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = sample(quant=NoQuant(), model=Mlp(hidden=[16]), train=Train(epochs=1, threads=1))
    result = quantexp.run(experiment)
    save(tmp_path / "model", result.model, result.recipe)
    files = {f"model/{path.name}": path.read_bytes() for path in (tmp_path / "model").iterdir()}
    listed = [{"path": Path(name).name, "is_dir": False, "file_size": len(files[name])} for name in files]
    monkeypatch.setattr(Hostile, "listed", listed, raising=False)
    monkeypatch.setattr(Hostile, "files", files, raising=False)
    batch = load(experiment).test.first(8)
    with torch.no_grad():
        assert torch.equal(quantexp.load(RUN, tracking_uri=server)(*batch), result.model(*batch))


LISTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "a path above": ({"path": "../../../outside", "is_dir": False, "file_size": 1}, "Invalid path"),
    "an absolute path": ({"path": "/tmp/outside", "is_dir": False, "file_size": 1}, "Invalid path"),
    "a folder": ({"path": "recipe.json", "is_dir": True}, "the run did not store it"),
    "no size": ({"path": "recipe.json", "is_dir": False}, "an unknown number"),
    "a size beyond all bounds": ({"path": "recipe.json", "is_dir": False, "file_size": 2**40}, "may have 1,048,576"),
    "a size that is not true": ({"path": "recipe.json", "is_dir": False, "file_size": 2}, "may have 1,048,576"),
}


@pytest.mark.parametrize(("entry", "told"), LISTINGS.values(), ids=LISTINGS.keys())
def test_a_server_that_lists_what_is_not_so_writes_nothing(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scratch: Path, entry: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(Hostile, "listed", [entry], raising=False)
    monkeypatch.setattr(Hostile, "files", {"model/recipe.json": b" " * (2**20 + 1)}, raising=False)
    with pytest.raises(TrackingError, match=told):
        quantexp.load(RUN, tracking_uri=server)
    assert list(tmp_path.iterdir()) == list(scratch.iterdir()) == []


def test_a_server_that_sends_readers_to_its_own_folders_is_read_where_they_are_ours_too(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_bytes(b"{}")
    monkeypatch.setattr(Hostile, "address", tmp_path.as_uri())
    with read_store(server) as store:
        assert read_artifact(store, store.run(RUN), "report.json") == b"{}"
    assert artifacts.MOST_BYTES == 64 * 1024**2

"""A SQLite store that is read-only, forbidden, locked or damaged: what is still read, and what is said."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch

import quantexp as package
from quantexp.config import Dynamic, Experiment, Local, Mlp, Mnist, Server
from quantexp.mission import run
from quantexp.report import main as report_command
from quantexp.runner.identity import configuration_digest, identity_of
from quantexp.runner.reproduce import reproduce
from quantexp.runner.sweep_results import read_sweep
from quantexp.runner.tracked import log_result
from quantexp.system.cache import copy_atomically
from quantexp.system.errors import TrackingError
from quantexp.tracking import sqlite, sweeps
from quantexp.tracking.names import CONFIGURATION, PARENT
from quantexp.tracking.run import track
from quantexp.tracking.store import open_store, read_store

NOBODY = 65534


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, store_template: Path, cache: Path) -> Path:
    """A folder with a store that holds a sweep of one run; it is not in the folder where it was made."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(store_template, folder / "mlflow.db")
    made = experiment(cache_dir=str(cache))
    result = run(made)
    before = Path.cwd()
    os.chdir(folder)
    try:
        store = open_store(Local())
        parent = sweeps.begin(store, "night", "python -m quantexp -m", True)
        tags = {PARENT: parent, CONFIGURATION: configuration_digest(made)}
        with track(store, "one", {"quant": "dynamic"}, tags) as tracked:
            tracked.log_text("config.yaml", "")
            log_result(tracked, result, identity_of(made, result.report.data.fingerprint))
        sweeps.end(store, parent, "FINISHED")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(params=["small", "large"])
def folder(template: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A copy of the store that any user may reach; it is entered. It counts as a small store, or as a large one."""
    if request.param == "large":
        monkeypatch.setattr(sqlite, "COPIED_BYTES", 0)
    with tempfile.TemporaryDirectory(prefix="quantexp-test-") as parent:
        Path(parent).chmod(0o755)  # pytest's own folders are for one user only
        copy = Path(parent) / "store"
        shutil.copytree(template, copy)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        monkeypatch.chdir(copy)
        yield copy
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give up what root may do: permissions of files bind any other user."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.setresuid(NOBODY, NOBODY, 0)
    except PermissionError:
        pytest.skip("this root user cannot act as another")
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def forbid_writing(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def the_run() -> str:
    with read_store(None, "quantexp") as store:
        (found,) = store.search("params.quant = 'dynamic'")
    return found.run_id


def read_all(to: Path) -> None:
    """Read in every way that there is: the report, and the network of a run."""
    report_command(["night", "--to", str(to)])
    package.load(the_run())(torch.zeros(2, 400))


# -- read-only -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_that_is_read_only_is_read_and_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    read_all(tmp_path / "before")  # imports what another user may not be allowed to
    forbid_writing(folder)
    before = content(folder)
    with tempfile.TemporaryDirectory() as free:
        Path(free).chmod(0o777)
        with unprivileged():
            with pytest.raises(OSError, match="denied"):
                (folder / "probe").touch()
            read_all(Path(free) / "report")
        assert (Path(free) / "report" / "full.csv").read_bytes() == (tmp_path / "before" / "full.csv").read_bytes()
        shutil.rmtree(Path(free) / "report")
    assert content(folder) == before


def test_the_tables_are_shown_where_no_page_can_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_all(Path("warm"))
    shutil.rmtree("warm")
    forbid_writing(folder)
    capsys.readouterr()
    with unprivileged(), pytest.raises(SystemExit) as left:
        report_command(["night"])
    shown = capsys.readouterr()
    assert left.value.code == 1
    assert "dynamic" in shown.out
    assert "choose another folder with --to FOLDER" in shown.err


def test_a_run_is_reproduced_where_it_cannot_be_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = TrackingError(f"{folder}/mlflow.db is read-only")
    monkeypatch.setattr("quantexp.runner.reproduce.restore", lambda first, trust: experiment())
    monkeypatch.setattr("quantexp.tracking.store.open_store", raising(error))
    before = content(folder)
    reproduce(the_run(), Local())
    shown = capsys.readouterr().out
    assert f"the new run is not recorded: {error}" in " ".join(shown.split("\n"))
    assert "Accuracy, dynamic int8" in shown
    assert content(folder) == before


def experiment(**parts: object) -> Experiment:
    """What the run is a run of; its record has no configuration."""
    small = {"task": Mnist(hidden=[8]), "model": Mlp(hidden=[8]), "quant": Dynamic(), "batch_size": 1}
    return Experiment(data="sample", **small, **parts)  # type: ignore[arg-type]


def raising(error: Exception) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("modes", "told"),
    [
        ({".": 0o555}, r"its folder .* is not writable \(Permission denied\); make it writable with chmod u\+w"),
        ({"mlflow.db": 0o444}, r"mlflow\.db is read-only, .*; make it writable with chmod u\+w"),
    ],
    ids=["folder", "file"],
)
def test_recording_in_a_store_that_is_read_only_is_refused(folder: Path, modes: dict[str, int], told: str) -> None:
    open_store(Local())
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    for name, mode in modes.items():
        (folder / name).chmod(mode)
    before = content(folder)
    with unprivileged(), pytest.raises(TrackingError, match=rf"{told}.*, or record elsewhere.* can still be read"):
        open_store(Local())
    assert content(folder) == before


# -- forbidden -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlflow.db", "."], ids=["file", "folder"])
def test_a_store_that_may_not_be_read_is_told(folder: Path, name: str) -> None:
    read_all(folder.parent / "warm")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    (folder / name).chmod(0o000)
    told = r"mlflow\.db is not readable for this user \(Permission denied\); .*chmod a\+r"
    with unprivileged():
        with pytest.raises(TrackingError, match=told), read_store(uri, "quantexp"):
            pass
        with pytest.raises(TrackingError, match=told):
            open_store(Server(uri=uri))


def test_a_file_of_a_run_that_may_not_be_read_is_told(folder: Path) -> None:
    read_all(folder.parent / "warm")
    run_id = the_run()
    (folder / "mlartifacts" / run_id / "artifacts" / "report.json").chmod(0o000)
    with unprivileged(), read_store(None, "quantexp") as store:
        (unreadable,) = read_sweep(store, "night").unreadable
    assert (unreadable.run_id, "Permission denied" in unreadable.reason) == (run_id, True)


# -- locked ----------------------------------------------------------------------------------------------


def test_a_store_that_another_process_locks_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    told = r"mlflow\.db is locked by another process for more than 0\.1 seconds; wait .*fuser"
    with closing(sqlite3.connect("mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match=told), read_store(None, "quantexp"):
            pass
        with pytest.raises(TrackingError, match=told):
            open_store(Local())
    assert the_run()
    open_store(Local())


def test_a_store_that_another_process_writes_is_read_as_it_was_before(folder: Path) -> None:
    with closing(sqlite3.connect("mlflow.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE params SET value = 'static' WHERE key = 'quant'")
        assert the_run()


DIE_WHILE_WRITING = """
import os, sqlite3
connection = sqlite3.connect("mlflow.db")
connection.execute("PRAGMA cache_size = 1")  # so that changes reach the file before they are committed
connection.execute("UPDATE params SET value = 'static' WHERE key = 'quant'")
connection.execute("CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) "
                   "SELECT i, hex(randomblob(500)) FROM n")
os._exit(0)
"""


def test_a_store_whose_writer_died_is_read_as_it_was_before(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE_WHILE_WRITING], check=True)
    assert (folder / "mlflow.db-journal").stat().st_size > 0
    before = content(folder)
    assert the_run()
    assert content(folder) == before  # it is undone by who writes next


def test_a_store_with_a_write_ahead_log_is_read_with_it(folder: Path) -> None:
    with closing(sqlite3.connect("mlflow.db")) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("UPDATE runs SET name = 'renamed'")
        other.commit()
        with read_store(None) as store:
            assert store.run(the_run()).name == "renamed"
    assert {path.name for path in folder.iterdir() if path.name.startswith("mlflow.db")} == {"mlflow.db"}
    before = content(folder)
    assert the_run()
    assert content(folder) == before


# -- damaged, or of another version ----------------------------------------------------------------------


def cut(database: Path) -> None:
    with database.open("r+b") as file:
        file.truncate(20_000)


def overwrite(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 200_000)


def replace(database: Path) -> None:
    database.write_bytes(b"<html>not a database</html>" * 100)


def empty(database: Path) -> None:
    database.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, overwrite, replace, empty])
def test_a_store_that_is_damaged_is_told_and_left_as_it_is(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / "mlflow.db")
    before = content(folder)
    told = r"mlflow\.db is damaged, or is not a SQLite store \(.*\); restore a backup, or move it away.*\.recover"
    with pytest.raises(TrackingError, match=told), read_store(None, "quantexp"):
        pass
    assert content(folder) == before
    if damage is empty:  # as any new one
        open_store(Local())
        return
    with pytest.raises(TrackingError, match=told):
        open_store(Local())
    assert (folder / "mlflow.db").read_bytes() == before["mlflow.db"]


def test_a_store_of_an_older_mlflow_is_read_and_not_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    monkeypatch.chdir(tmp_path)
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{tmp_path / 'mlflow.db'}")
    config = utils._get_alembic_config(str(engine.url))
    script = ScriptDirectory.from_config(config)
    before = script.get_revision(script.get_current_head()).down_revision
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, before)
    engine.dispose()
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (1, 'old', '', 'active')"
        )
    stored = content(tmp_path)
    with read_store(None, "old") as store:
        assert list(store.search("")) == []
    assert content(tmp_path) == stored


def test_a_store_of_a_newer_mlflow_is_told(folder: Path) -> None:
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with (
        pytest.raises(TrackingError, match=r"mlflow\.db cannot be read by this version of MLflow .*ffffffffffff"),
        read_store(None, "quantexp"),
    ):
        pass


# -- what reading leaves behind --------------------------------------------------------------------------


def test_reading_many_times_leaves_no_file_open_and_no_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        monkeypatch.setattr(tempfile, "tempdir", scratch)
        the_run()
        descriptors = Path("/proc/self/fd")
        before = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
        for _ in range(5):
            the_run()
        assert (len(list(descriptors.iterdir())) if descriptors.is_dir() else 0) == before
        assert list(Path(scratch).iterdir()) == []


def test_a_large_store_is_not_copied_and_cannot_be_changed(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(template)
    monkeypatch.setattr(sqlite, "COPIED_BYTES", 0)
    monkeypatch.setattr(sqlite, "_copy", lambda *paths: pytest.fail("it was copied"))
    with read_store(None, "quantexp") as store:
        (run,) = store.search("params.quant = 'dynamic'")
        with pytest.raises(Exception, match="readonly"):
            store.client.set_tag(run.run_id, "a", "b")


def test_a_large_store_in_a_folder_with_any_name_is_read(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "COPIED_BYTES", 0)
    names = ("with spaces", "größe", "100%25 & #1", "a#b", "50%")
    for name in names:
        shutil.copytree(template, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        assert the_run()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)  # no other file was made


# -- a first start that is cut short ---------------------------------------------------------------------

OPEN = """
from quantexp.config import Local
from quantexp.tracking.store import open_store
open_store(Local())
"""
KILLED = """
import os, pathlib
pathlib.Path.replace = lambda self, target: os.kill(os.getpid(), {})  # its last step
"""
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"


def opens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the store of a folder can be opened and recorded in, and nothing else is left there."""
    monkeypatch.chdir(folder)
    store = open_store(Local())
    store.client.create_run(store.experiment_id)
    return {path.name for path in folder.iterdir()} <= {"mlflow.db", ".mlflow.db.lock", "mlruns"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_store_whose_creation_was_killed_is_created_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED.format(int(number)) + OPEN], cwd=tmp_path)
    assert done.returncode == -number
    assert (tmp_path / ".mlflow.db.new").stat().st_size > 100_000
    assert not (tmp_path / "mlflow.db").exists()
    assert opens(tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_store_that_a_full_disk_cut_short_is_created_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK + OPEN], cwd=tmp_path, capture_output=True, text=True)
    assert "TrackingError" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "mlflow.db").exists()
    assert opens(tmp_path, monkeypatch)


@pytest.mark.slow
def test_an_empty_file_and_what_an_earlier_start_left_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlflow.db", ".mlflow.db.new", ".mlflow.db.new-journal"):
        (tmp_path / name).write_bytes(b"" if name == "mlflow.db" else b"cut short")
    assert opens(tmp_path, monkeypatch)


def test_a_store_that_mlflow_itself_left_unfinished_is_named_with_its_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
    with pytest.raises(TrackingError, match=r"was not created to its end .* remove it"):
        open_store(Local())


def test_a_file_is_copied_whole_or_not_at_all(tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "old"
    target.write_text("the old report")
    with pytest.raises(OSError):
        copy_atomically(source, target)
    assert target.read_text() == "the old report"
    source.write_text("the new report")
    copy_atomically(source, target)
    assert target.read_text() == "the new report"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]

"""The command that compares machines, on stores with real runs."""

from __future__ import annotations

import json
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from quantexp.compare import main
from quantexp.config import Dynamic, Experiment, Mlp, Mnist, NoQuant, Paired, Quant, Server
from quantexp.runner.single import run_single
from quantexp.runner.tracked import Request
from quantexp.system.environment import describe
from quantexp.system.errors import TrackingError
from quantexp.tracking import sweeps
from quantexp.tracking.address import store_uri
from quantexp.tracking.store import open_store

CHOICES = {"task": "mnist", "model": "mlp", "train": "default", "benchmark": "quick", "tracking": "server"}


@contextmanager
def host(name: str) -> Iterator[None]:
    """Let this process run on a host with another name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(platform, "node", lambda: name)
        describe.cache_clear()
        yield
    describe.cache_clear()


def record(store: Path, cache: Path, name: str, *methods: Quant, sweep: str | None = None) -> None:
    """Record a run of each method on a host of this name, in a sweep or alone."""
    tracking = Server(uri=f"sqlite:///{store}")
    with host(name):
        parent = sweeps.begin(open_store(tracking), sweep, "", resume=True) if sweep else None
        for quant in methods:
            experiment = Experiment(
                task=Mnist(hidden=[8]),
                model=Mlp(hidden=[8]),
                quant=quant,
                data="sample",  # type: ignore[arg-type]  # as it is composed
                cache_dir=str(cache),
                benchmark=Paired(placements=2, seconds=0.02),
                batch_size=[1, 8],
                tracking=tracking,
            )
            yaml = OmegaConf.to_yaml(OmegaConf.structured(experiment))
            run_single(experiment, Request(CHOICES | {"quant": quant.name}, [], yaml, parent=parent, quiet=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, store_template: Path, cache: Path) -> Path:
    """Folders with stores: `seven` of host node7, `nine` of node9, which measured less; `both` is a copy
    of the first that went on on node9."""
    folder = tmp_path_factory.mktemp("stores")
    for name in ("seven", "nine", "empty"):
        (folder / name).mkdir()
        shutil.copy(store_template, folder / name / "mlflow.db")
    record(folder / "seven/mlflow.db", cache, "node7", NoQuant())
    record(folder / "seven/mlflow.db", cache, "node7", Dynamic(), sweep="methods")
    record(folder / "nine/mlflow.db", cache, "node9", Dynamic(), sweep="methods")
    shutil.copytree(folder / "seven", folder / "both")
    record(folder / "both/mlflow.db", cache, "node9", Dynamic())
    return folder


@pytest.fixture
def stores(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders, copied so that they may be changed; an empty working directory is entered."""
    shutil.copytree(made, tmp_path / "stores")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "stores"


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit status of the command, which must fail without writing anything, and its message."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert not list(Path.cwd().iterdir())
    message = capsys.readouterr().err
    assert message.startswith("quantexp.compare: ")
    assert isinstance(left.value.code, int)
    return left.value.code, message


@pytest.mark.parametrize(
    ("seven", "nine"),
    [("{}/seven", "{}/nine"), ("{}/seven/mlflow.db", "sqlite:///{}/nine/mlflow.db"), ("../stores/seven", "{}/nine")],
    ids=["folder", "file", "relative"],
)
def test_two_stores_stand_side_by_side_and_stay_as_they_were(
    seven: str, nine: str, stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(stores)
    main([seven.format(stores), nine.format(stores)])
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines() if "x [" in line]  # of a speedup with its interval
    machines = [cell for row in rows for cell in row if cell.startswith("node")]
    assert machines == ["node7", "node9", "node7", "node9"]  # batch sizes 1 and 8
    notes = " ".join(shown.split())  # they are folded
    assert "Measured only on node7: 1 experiment (mnist (sample) none fp32)." in notes
    assert f"1 run in {stores}/nine/mlflow.db." in notes
    assert "DIFFER" not in notes
    assert shown.endswith("report: compare/report.html\n")
    assert Path("compare/pictures/speedup-mnist-sample.png").is_file()
    assert content(stores) == before


def test_machines_of_one_store_stand_side_by_side(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(stores / "both"), "--to", "there/it/lies"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "node7" in shown
    assert "node9" in shown
    assert "Measured only on node7: 1 experiment" in shown
    assert Path("there/it/lies/report.html").is_file()


def test_the_runs_of_one_sweep_can_be_chosen(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(stores / "seven"), str(stores / "nine"), "--sweep", "methods"])
    shown = capsys.readouterr().out
    assert "dynamic int8" in shown
    assert "none fp32" not in shown
    shutil.rmtree("compare")
    status, message = fails(capsys, str(stores / "seven"), "--sweep", "night")
    assert (status, "has no sweep 'night'; it has methods" in message) == (1, True)


def test_a_store_that_was_moved_is_read_from_its_new_place(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stores / "nine").rename(stores / "moved")
    main([str(stores / "seven"), str(stores / "moved")])
    assert f"{stores}/moved/mlflow.db" in capsys.readouterr().out


def test_runs_that_were_copied_to_another_store_count_once(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(stores / "seven"), str(stores / "both")])
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 runs are in several stores" in shown
    assert f"2 runs in {stores}/seven/mlflow.db" in shown
    assert f"1 run in {stores}/both/mlflow.db" in shown


def test_another_run_on_a_host_of_the_same_name_is_another_machine(
    stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(stores / "nine"), str(stores / "both")])
    shown = " ".join(capsys.readouterr().out.split())
    assert "node9 (nine)" in shown
    assert "node9 (both)" in shown
    assert "node9 is the host name in 2 stores" in shown


def test_one_machine_is_an_error_that_names_it(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, message = fails(capsys, str(stores / "seven"))
    assert status == 2
    assert f"all runs in {stores}/seven/mlflow.db were made on node7 (" in message
    assert "run the same command on another machine, and name its store too" in message


def test_a_store_and_its_copy_are_one_machine(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(stores / "nine", stores / "copy")
    _, message = fails(capsys, str(stores / "nine"), str(stores / "copy"))
    assert f"{stores}/nine/mlflow.db and {stores}/copy/mlflow.db were made on node9 (" in message


def test_a_store_that_is_named_twice_is_an_error(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, message = fails(capsys, str(stores / "seven"), str(stores / "seven/mlflow.db"))
    assert (status, "each store must be named once" in message) == (2, True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "there is no store {}/nowhere; name a SQLite file, a folder that holds mlflow.db, or"),
        ("sqlite:///{}/nowhere.db", "there is no store {}/nowhere.db"),
        ("folder", "the folder of a store must hold mlflow.db, {}/folder does not"),
        ("text.db", "{}/text.db is damaged, or is not a SQLite store (it is not a database)"),
        ("other.db", "{}/other.db is a SQLite file, but no store of MLflow"),
        ("empty", "{}/empty/mlflow.db has no experiment 'quantexp'; name another one"),
        ("unused", "{}/unused/mlflow.db has no finished run of quantexp in the experiment 'quantexp'"),
        ("file:///{}/mlruns", "MLflow no longer records in plain folders"),
        ("http://127.0.0.1:9", "the tracking server http://127.0.0.1:9 does not answer"),
    ],
)
def test_a_store_that_cannot_be_read_is_named(
    name: str, told: str, stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stores / "folder").mkdir()
    (stores / "text.db").write_text("not a database")
    with sqlite3.connect(stores / "other.db") as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
    shutil.copytree(stores / "empty", stores / "unused")
    open_store(Server(uri=f"sqlite:///{stores}/unused/mlflow.db"))
    before = content(stores)
    given = name.format(stores) if ":" in name else str(stores / name)
    status, message = fails(capsys, str(stores / "seven"), given)
    assert status == 1
    assert told.format(stores) in message
    assert len(message.splitlines()) == 1
    assert content(stores) == before


def test_a_run_of_another_format_is_listed_and_the_others_are_compared(
    stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (older, *_) = (stores / "seven").glob("mlartifacts/*/artifacts/identity.json")
    older.write_text(json.dumps({"configuration": []}))
    main([str(stores / "seven"), str(stores / "nine")])
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 recorded results cannot be read and are not in the table" in shown
    assert "identity.json of run" in shown
    assert "recorded by quantexp" in shown
    assert "Not readable" in Path("compare/report.html").read_text()


def test_a_store_of_which_nothing_can_be_read_is_an_error(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(stores / "nine" / "mlartifacts")
    with sqlite3.connect(stores / "nine" / "mlflow.db") as connection:
        connection.execute("UPDATE runs SET artifact_uri = 'file:///nowhere/artifacts'")
    status, message = fails(capsys, str(stores / "seven"), str(stores / "nine"))
    assert status == 1
    assert f"no run in {stores}/nine/mlflow.db can be read: report.json of run" in message
    assert "copy mlartifacts there from the original store" in message


def test_a_store_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(TrackingError, match="is not readable \\(Permission denied\\)"):
        store_uri(str(tmp_path))


@pytest.mark.parametrize("arguments", [[], ["one", "--nothing"]], ids=["none", "unknown"])
def test_bad_arguments_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: python -m quantexp.compare" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_matplotlib_nor_mlflow() -> None:
    code = (
        "import sys; from quantexp.compare import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as left: assert left.code == 0\n"
        "assert not {'torch', 'matplotlib', 'mlflow', 'scipy', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "STORE" in done.stdout

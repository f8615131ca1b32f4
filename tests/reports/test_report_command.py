from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from quantexp.report import main
from quantexp.results.sweep import SweepResult
from quantexp.runner import finished, sweep_results
from quantexp.runner.report import folder_name
from quantexp.system.errors import ConfigError, TrackingError
from quantexp.tracking import store
from tests.builders import lone, method, sweep

SWEEP = sweep(lone(), method("static"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str | None, str | None, str]]:
    """A working directory, and a store that holds one sweep; what was asked of it: address, experiment, sweep."""
    monkeypatch.chdir(tmp_path)
    found: list[tuple[str | None, str | None, str]] = []

    @contextmanager
    def read_store(uri: str | None, experiment: str | None) -> Iterator[tuple[str | None, str | None]]:
        yield uri, experiment

    def read_sweep(store: Any, name: str) -> SweepResult:
        found.append((*store, name))
        return SWEEP

    monkeypatch.setattr(store, "read_store", read_store)
    monkeypatch.setattr(sweep_results, "read_sweep", read_sweep)
    monkeypatch.setattr(finished, "find_compatibility", lambda store, name: None)
    return found


def test_each_table_has_its_title_above_it_and_the_summary_comes_last(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["night"])
    lines = capsys.readouterr().out.splitlines()
    titles = ["All runs", "Summary"]
    places = [lines.index(title) for title in titles]
    assert places == sorted(places)
    for place in places:
        assert "Quantization" in "".join(lines[place + 1 : place + 4])


def test_the_command_prints_the_tables_and_the_advice_and_says_where_the_page_lies(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["night"])
    shown = capsys.readouterr().out
    assert "Latency B1 (ms)" in shown
    assert "At batches 1 and 64, static int8 is fastest" in shown
    assert shown.endswith("report: report-night/report.html\n")
    assert Path("report-night/report.html").is_file()
    assert asked == [(None, "quantexp", "night")]


def test_store_experiment_and_folder_can_be_chosen(asked: list[Any]) -> None:
    main(["night", "--tracking-uri", "http://host:5000", "--experiment", "mine", "--to", "there/it/lies"])
    assert asked == [("http://host:5000", "mine", "night")]
    assert Path("there/it/lies/report.html").is_file()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("night", "report-night"),
        ("../../etc/passwd", "report-etc-passwd"),
        ("/", "report-sweep"),
        ("..", "report-sweep"),
        ("a b\n", "report-a-b"),
        ("x" * 300, "report-" + "x" * 80),
    ],
)
def test_no_name_leads_out_of_the_working_directory(name: str, folder: str) -> None:
    assert folder_name(name) == folder


@pytest.mark.parametrize(
    ("error", "status"), [(TrackingError("no such sweep"), 1), (ConfigError("no such uri"), 2)], ids=["store", "value"]
)
def test_an_error_is_a_message_and_a_status(
    error: Exception,
    status: int,
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(store: Any, name: str) -> SweepResult:
        raise error

    monkeypatch.setattr(sweep_results, "read_sweep", fail)
    with pytest.raises(SystemExit) as left:
        main(["night"])
    assert left.value.code == status
    assert capsys.readouterr().err == f"quantexp.report: {error}\n"


def test_a_store_that_does_not_exist_is_an_error_and_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["night"])
    assert left.value.code == 1
    assert f"there is no store {tmp_path / 'mlflow.db'}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[], ["one", "two"], ["one", "--nothing"]], ids=["none", "two", "unknown"])
def test_bad_arguments_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: python -m quantexp.report" in capsys.readouterr().err


def test_a_uri_that_is_none_ends_with_2(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["night", "--tracking-uri", "somewhere"])
    assert left.value.code == 2
    assert "must be a URI such as http://host:5000" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_matplotlib_nor_mlflow() -> None:
    code = (
        "import sys; from quantexp.report import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as left: assert left.code == 0\n"
        "assert not {'torch', 'matplotlib', 'mlflow', 'scipy', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "SWEEP" in done.stdout

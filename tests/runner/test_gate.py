"""The gate on recorded runs and sweeps: its lines and its exit status."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantexp.config import Local
from quantexp.gate import main
from quantexp.tracking import sweeps
from quantexp.tracking.store import Store, open_store
from tests.builders import lone, method, report, speedup, unlabelled
from tests.stores import record


@pytest.fixture
def store(workdir: Path) -> Store:
    """An empty store in the working directory."""
    return open_store(Local())


def status(*arguments: str) -> int:
    """Run the command, and return its exit status."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code


def test_a_run_has_a_line_for_each_rule_and_passes_if_all_do(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(store, report(), "static")
    rules = ("--max-accuracy-drop", "0.01", "--min-speedup", "2", "--max-size-mb", "2", "--batch-size", "1")
    assert status(run, *rules, "--min-agreement", "0.9", "--min-sqnr-db", "20") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "static"
    assert [line.split()[0] for line in shown[1:]] == ["pass"] * 5
    assert "pass       speedup at batch 1 at least 2: 2.44x [2.43, 2.45]" in shown


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["--min-speedup", "3"], 1),
        (["--max-accuracy-drop", "0.001"], 3),
        (["--max-accuracy-drop", "0.001", "--min-speedup", "3"], 1),
        (["--min-speedup", "2", "--batch-size", "7"], 2),
        (["--batch-size", "1", "--max-size-mb", "2"], 2),
        ([], 2),
        (["--max-accuracy-drop", "2"], 2),
        (["--min-speedup", "nan"], 2),
        (["--against", "x", "--max-size-mb", "2"], 2),
    ],
)
def test_the_exit_status_says_what_the_rules_decide(store: Store, rules: list[str], expected: int) -> None:
    assert status(record(store, report(), "static"), *rules) == expected


def test_a_sweep_passes_if_each_of_its_quantized_networks_does(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = sweeps.begin(store, "night", "", resume=True)
    record(store, lone(), "float", parent)
    record(store, method("static", megabytes=1.5), "static", parent)
    record(store, method("dynamic", megabytes=1.9), "dynamic", parent)
    assert status("night", "--max-size-mb", "2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "sweep night: 2 quantized networks",
        "pass       size at most 2 MB: 2 of 2 pass",
    ]
    assert status(parent, "--max-size-mb", "1.6") == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "fail       size at most 1.6 MB: 1 of 2 pass",
        "             fail: dynamic (1.90 MB)",
    ]


def test_a_combination_that_failed_fails_a_sweep_and_one_that_remains_leaves_it_undecided(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = sweeps.begin(store, "night", "", resume=True)
    record(store, method("static"), "static", parent)
    sweeps.log_state(store, parent, done=1, failed=0, left=2)
    assert status("night", "--max-size-mb", "2") == 3
    assert "undecided  a result of every run: 2 combinations remain" in capsys.readouterr().out
    record(store, None, "broken", parent)
    assert status("night", "--max-size-mb", "2") == 1
    assert "fail       a result of every run: broken failed: ValueError: the loss became nan" in capsys.readouterr().out


def test_a_result_that_cannot_be_read_leaves_a_sweep_undecided(
    store: Store, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = sweeps.begin(store, "night", "", resume=True)
    record(store, method("static"), "static", parent)
    run = record(store, method("dynamic"), "dynamic", parent)
    (workdir / "mlartifacts" / run / "artifacts" / "report.json").write_text("{}")
    assert status("night", "--max-size-mb", "2") == 3
    assert "dynamic cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("results", ["run", "night"])
def test_a_rule_on_accuracy_is_refused_without_labels_and_names_those_that_work(
    store: Store, results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = sweeps.begin(store, "night", "", resume=True)
    run = record(store, unlabelled(), "random inputs", parent)
    chosen = run if results == "run" else results
    assert status(chosen, "--max-accuracy-drop", "0.01") == 2
    told = capsys.readouterr().err
    assert "a rule on accuracy needs labelled data, random inputs had no labels" in told
    assert "--min-agreement and --min-sqnr-db need no labels" in told
    assert status(chosen, "--min-agreement", "0.9", "--min-sqnr-db", "20") == 0


def test_a_run_of_the_float_network_a_failed_one_and_none_are_told(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(record(store, lone(), "float"), "--max-size-mb", "2") == 2
    assert "measured the float network alone (quant=none); name a run that quantized" in capsys.readouterr().err
    assert status(record(store, None, "broken"), "--max-size-mb", "2") == 1
    assert re.search(r"only a finished run .* \(broken\) is FAILED: ValueError: the loss", capsys.readouterr().err)
    assert status("0" * 32, "--max-size-mb", "2") == 1
    assert f"has no run '{'0' * 32}'" in capsys.readouterr().err
    assert status("nowhere", "--max-size-mb", "2") == 1
    assert "has no sweep 'nowhere'; it has none" in capsys.readouterr().err


def test_against_another_run_the_differences_of_both_are_said(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = record(store, method("static", speedups=(speedup(1, 2.0),), host="node7"), "before")
    after = record(store, method("static", speedups=(speedup(1, 1.5),)), "after")
    assert status(after, "--min-speedup", "0.9", "--max-accuracy-drop", "0.02", "--against", before) == 1
    shown = capsys.readouterr().out
    assert "fail       speedup at batch 1 at least 0.9 times that there: 0.75x" in shown
    assert "pass       accuracy drop at most 0.02 more than there: 0.0000 [" in shown
    assert "note       machine differs: here (EPYC" in shown
    assert status(before, "--min-speedup", "0.9", "--against", after) == 0


def test_against_a_run_of_another_task_or_runtime_is_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(store, report(), "static")
    for changes in ({"task": "sst2"}, {"runtime": "onnxruntime"}):
        other = record(store, report(**changes), "other")
        assert status(run, "--min-speedup", "0.9", "--against", other) == 2
        assert "--against compares runs of one task in one runtime" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys; from quantexp.gate import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as left: assert left.code == 0\n"
        "assert not {'torch', 'mlflow', 'scipy', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "exit status: 0 all rules pass" in done.stdout

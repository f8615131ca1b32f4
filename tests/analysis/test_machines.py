"""Runs of several machines: which of them measured the same, and what differs between the machines."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from quantexp.analysis.machine_differences import MEASURING, TRAINING, VERSIONS, properties
from quantexp.analysis.machines import SideBySide, machine_names, side_by_side
from quantexp.results import Report
from quantexp.results.machines import MachineFacts, RecordedRun, RecordedRuns
from tests.builders import data, method, recorded, speedup, training

HERE, THERE = "/stores/here/mlflow.db", "/stores/there/mlflow.db"
STATIC = method("static")


def at(host: str, made: Report = STATIC, **changes: Any) -> Report:
    """The same run on another host."""
    return dataclasses.replace(made, host=host, **changes)


def compared(*runs: RecordedRun) -> SideBySide:
    return side_by_side(RecordedRuns(tuple(dict.fromkeys(run.store for run in runs)), runs))


def matched(*runs: RecordedRun) -> list[tuple[str, ...]]:
    """The machines of each experiment."""
    return [shared.machines for shared in compared(*runs).experiments]


def test_the_same_experiment_on_two_machines_is_matched_and_keeps_the_figures_of_each() -> None:
    fast = method("static", speedups=[speedup(1, 3.0), speedup(64, 5.0)])
    found = compared(recorded(at("node7")), recorded(at("node9", fast), THERE))
    assert [machine.name for machine in found.machines] == ["node7", "node9"]
    (shared,) = found.experiments
    assert shared.machines == ("node7", "node9")
    assert [variant.speedups(1)[0].ratio for variant in shared.variants] == [2.0, 3.0]
    assert found.on_all(shared)


@pytest.mark.parametrize(
    "other",
    [
        recorded(at("node9", method("qat")), THERE),
        recorded(at("node9", precision="fp16"), THERE),
        recorded(at("node9", task="sst2"), THERE),
        recorded(at("node9", data=data("sample")), THERE),
        recorded(at("node9", data=dataclasses.replace(data(), fingerprint="e" * 64)), THERE),
        recorded(at("node9", runtime="compiled"), THERE),
        recorded(at("node9"), THERE, model__hidden="[64]"),
        recorded(at("node9", benchmark="lab"), THERE, model__hidden="[64]", benchmark__repeats="5"),
        recorded(at("node9"), THERE, quant__engine="onednn"),
        recorded(at("node9"), THERE, train__checkpoint="9f86d081"),
    ],
    ids=["method", "precision", "task", "source", "data", "runtime", "network", "both", "engine", "weights"],
)
def test_runs_that_measured_something_else_are_not_matched(other: RecordedRun) -> None:
    settings = {"model__hidden": "[1024]", "quant__engine": "x86", "train__checkpoint": "None"}
    assert matched(recorded(at("node7"), **settings), other) == [("node7",), ("node9",)]


@pytest.mark.parametrize(
    "other",
    [
        recorded(at("node9", benchmark="lab"), THERE, benchmark="lab"),
        recorded(at("node9", threads=8), THERE, benchmark__threads="8"),
        recorded(at("node9"), THERE, benchmark__seconds="15.0"),
        recorded(at("node9", machine="Xeon, 64 cores, torch 2.16.0, Python 3.13.1"), THERE),
        recorded(at("node9", float_training=dataclasses.replace(training(), threads=64)), THERE),
    ],
    ids=["protocol", "threads", "seconds", "versions", "training"],
)
def test_machine_versions_and_protocol_may_differ(other: RecordedRun) -> None:
    assert matched(recorded(at("node7"), benchmark__seconds="2.0"), other) == [("node7", "node9")]


def test_experiments_of_all_machines_come_first() -> None:
    runs = [recorded(at("node7", method("dynamic"))), recorded(at("node7")), recorded(at("node9"), THERE)]
    found = compared(*runs)
    assert [shared.variants[0].quant for shared in found.experiments] == ["static", "dynamic"]
    assert [found.on_all(shared) for shared in found.experiments] == [True, False]


def test_seeds_of_one_machine_are_one_variant_and_are_never_mixed_with_those_of_another() -> None:
    seeds = [recorded(at("node7", seed=seed)) for seed in (0, 1)]
    (shared,) = compared(*seeds, recorded(at("node9", seed=1), THERE)).experiments
    assert [(variant.setup.host, list(variant.reports)) for variant in shared.variants if variant.setup] == [
        ("node7", [0, 1]),
        ("node9", [1]),
    ]


def test_of_equal_runs_on_one_machine_the_last_counts() -> None:
    again = method("static", speedups=[speedup(1, 9.0)])
    (shared,) = compared(recorded(at("node7")), recorded(at("node7", again)), recorded(at("node9"), THERE)).experiments
    assert shared.variants[0].speedups(1)[0].ratio == 9.0
    assert shared.variants[0].speedups(64)[0].ratio == 4.0


@pytest.mark.parametrize(
    ("places", "names"),
    [
        ([(HERE, "node7", "a"), (THERE, "node9", "a")], ["node7", "node9"]),
        ([(HERE, "lab", "a"), (THERE, "lab", "a")], ["lab (here)", "lab (there)"]),
        ([(HERE, "lab", "a"), (HERE, "lab", "b")], ["lab #1", "lab #2"]),
        (
            [(HERE, "lab", "a"), (HERE, "lab", "b"), (THERE, "lab", "a")],
            ["lab #1 (here)", "lab #2 (here)", "lab (there)"],
        ),
        (
            [("/a/x/mlflow.db", "lab", ""), ("/b/x/mlflow.db", "lab", "")],
            ["lab (/a/x/mlflow.db)", "lab (/b/x/mlflow.db)"],
        ),
        ([("/a/one.db", "lab", ""), ("/a/two.db", "lab", "")], ["lab (one.db)", "lab (two.db)"]),
        ([("http://a:5000", "lab", ""), (HERE, "lab", "")], ["lab (http://a:5000)", "lab (here)"]),
    ],
)
def test_machines_with_one_host_name_are_told_apart(places: list[tuple[str, str, str]], names: list[str]) -> None:
    assert list(machine_names(places).values()) == names


def test_namesakes_are_known() -> None:
    found = compared(recorded(at("lab")), recorded(at("lab"), THERE), recorded(at("node9"), THERE))
    assert [machine.name for machine in found.machines] == ["lab (here)", "lab (there)", "node9"]
    assert list(found.namesakes) == ["lab"]


def values(kind: str, *runs: RecordedRun) -> dict[str, tuple[str, ...]]:
    """What differs of one kind, with its value on each machine."""
    found = properties(compared(*runs).machines)
    return {one.name: one.values for one in found if one.kind == kind and one.differs}


def test_what_differs_in_versions_and_settings_is_found() -> None:
    facts = MachineFacts("Xeon", 64, python="3.13.1", packages={"torch": "2.16.0", "mlflow": "3.18.0"})
    longer = dataclasses.replace(training(), threads=64)
    other = recorded(at("node9", threads=8, float_training=longer), THERE, facts=facts, benchmark__seconds="15.0")
    runs = recorded(at("node7"), benchmark__seconds="2.0"), other
    assert values(VERSIONS, *runs) == {
        "Python": ("3.11.7", "3.13.1"),
        "torch": ("2.15.0", "2.16.0"),
        "mlflow": ("not recorded", "3.18.0"),
    }
    assert values(MEASURING, *runs) == {"benchmark.threads": ("1", "8"), "benchmark.seconds": ("2.0", "15.0")}
    assert values(TRAINING, *runs) == {"training threads": ("1", "64")}


def test_a_setting_that_a_protocol_does_not_have_is_named_as_such() -> None:
    lab = recorded(at("node9", benchmark="lab"), THERE, benchmark__repeats="5")
    assert values(MEASURING, recorded(at("node7")), lab) == {
        "benchmark": ("paired", "lab"),
        "benchmark.repeats": ("no such setting", "5"),
    }


def test_a_machine_whose_runs_differ_has_several_values() -> None:
    runs = [recorded(at("node7")), recorded(at("node7", method("qat"), benchmark="lab"), benchmark="lab")]
    assert values(MEASURING, *runs, recorded(at("node9"), THERE)) == {"benchmark": ("lab / paired", "paired")}

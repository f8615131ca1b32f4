"""What is recorded of a run and of its result."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quantexp.config import Dynamic, Experiment, Mlp, Mnist, NoQuant, Quant
from quantexp.config.tracking import Local
from quantexp.mission import run
from quantexp.results import parse_report
from quantexp.results.metrics import metrics
from quantexp.runner.identity import identity_of
from quantexp.runner.tracked import Request, log_result, tracked_run
from quantexp.system.errors import TrainingError
from quantexp.tracking.run import track
from quantexp.tracking.store import Store, open_store

CHOICES = {"task": "mnist", "model": "mlp", "quant": "static"} | dict.fromkeys(("train", "benchmark"), "default")


@pytest.fixture
def store(workdir: Path) -> Store:
    """The store of a working directory of its own."""
    return open_store(Local())


def test_the_configuration_is_written_before_the_work_starts(store: Store) -> None:
    request = Request(CHOICES, [], "# python -m quantexp\nseed: 0\n")
    with pytest.raises(TrainingError), tracked_run(Experiment(), request) as tracked:
        raise TrainingError("the loss became nan")
    (path,) = Path.cwd().glob(f"mlartifacts/{tracked.run_id}/artifacts/config.yaml")
    assert path.read_text() == "# python -m quantexp\nseed: 0\n"
    assert store.run(tracked.run_id).status == "FAILED"


@pytest.mark.parametrize("quant", [Dynamic(), NoQuant()], ids=["two-models", "one-model"])
def test_all_of_a_result_is_recorded(store: Store, sample: Callable[..., Experiment], quant: Quant) -> None:
    result = run(sample(task=Mnist(hidden=[8]), model=Mlp(hidden=[8]), quant=quant))
    with track(store, "whole", {}) as tracked:
        log_result(tracked, result, identity_of(Experiment(), result.report.data.fingerprint))
    kept = store.client.get_run(tracked.run_id)
    report = result.report
    expected = {name: round(value, 6) for name, value in metrics(report).items()}
    assert {name: kept.data.metrics[name] for name in expected} == expected
    assert {name.partition("/")[0] for name in kept.data.metrics.keys() - expected.keys()} == {"train"}
    assert kept.data.tags["data_fingerprint"] == report.data.fingerprint

    folder = Path.cwd() / "mlartifacts" / tracked.run_id / "artifacts"
    assert parse_report((folder / "report.json").read_bytes()) == report
    with (folder / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    models = [("float", report.baseline)] + ([("dynamic int8", report.quantized)] if report.quantized else [])
    for name, measured in models:
        for one in measured.latency:
            of_one = [row for row in rows if (row["model"], row["batch_size"]) == (name, str(one.batch_size))]
            assert [float(row["ms_per_call"]) for row in of_one] == list(one.samples_ms)  # every sample, in order
            rounds = len(one.samples_ms) // one.placements
            assert [(row["placement"], row["round"]) for row in of_one] == [
                (str(placement), str(number)) for placement in range(one.placements) for number in range(rounds)
            ]
    assert len(rows) == sum(len(one.samples_ms) for _, measured in models for one in measured.latency)

    with (folder / "confusion.csv").open(encoding="utf-8", newline="") as file:
        confusion = list(csv.DictReader(file))
    for name, measured in models:
        of_one = [row for row in confusion if row["model"] == name]
        assert sum(int(row["examples"]) for row in of_one) == report.data.test
        right = sum(int(row["examples"]) for row in of_one if row["label"] == row["predicted"])
        assert right == measured.quality.correct
    assert {"layers.csv", "operators.csv", "time.csv", "classes.csv"} <= {path.name for path in folder.iterdir()}
    machine = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert {"cpu", "cores", "packages", "load_average", "threads"} <= machine.keys()
    assert {"size.png", "time.png"} <= {path.name for path in (folder / "pictures").iterdir()}
    verdicts = {name for name in kept.data.tags if name.startswith("verdict")}
    asked = {"verdict_accuracy", "verdict_b1", "verdict_b8"} if report.comparison else set()
    assert verdicts == asked
    assert ("unstable" in kept.data.tags) == bool(report.unstable)

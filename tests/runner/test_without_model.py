"""A run that was recorded with tracking.store_model=false has everything but its network, and says so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import quantexp
from quantexp.config import Dynamic, Experiment, Flow, Local, Mlp, Mnist, NoQuant, Paired, Train
from quantexp.runner.reproduce import reproduce
from quantexp.runner.single import run, run_single
from quantexp.runner.tracked import Request
from quantexp.system.errors import TrackingError
from quantexp.tracking.names import NOTE, WITHOUT_MODEL
from quantexp.tracking.store import Store, open_store

CHOICES = {"task": "mnist", "model": "mlp", "quant": "dynamic", "train": "default"}
RUNS = "params.quant != ''"
REFUSED = "was recorded with tracking.store_model=false, so its network cannot be loaded or started from; run it again"


@pytest.fixture
def experiment(tmp_path: Path, store_template: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A small experiment in a folder with a store of its own."""
    shutil.copy(store_template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return Experiment(
        task=Mnist(hidden=[8]),
        model=Mlp(hidden=[8]),
        quant=Dynamic(flow=Flow.eager),
        data="sample",  # type: ignore[arg-type]  # as it is composed
        cache_dir=str(tmp_path / "cache"),
        benchmark=Paired(placements=2, seconds=0.02),
        batch_size=[1],
        tracking=Local(store_model=False),
    )


def recorded(experiment: Experiment) -> tuple[Store, str]:
    """Run it; return its store and its id."""
    run_single(experiment, Request(CHOICES, [], OmegaConf.to_yaml(OmegaConf.structured(experiment)), quiet=True))
    store = open_store(experiment.tracking)
    return store, next(iter(store.search(RUNS))).run_id


def files(run_id: str) -> list[str]:
    (folder,) = Path("mlartifacts").rglob(f"{run_id}/artifacts")
    return sorted(path.name for path in folder.iterdir())


def test_its_files_lack_the_network_and_its_record_says_why(experiment: Experiment) -> None:
    store, run_id = recorded(experiment)
    assert "model" not in files(run_id)
    assert "report.json" in files(run_id)
    facts = store.run(run_id)
    assert facts.tags[WITHOUT_MODEL] == "the network was not stored (tracking.store_model=false)"
    assert facts.tags[NOTE].rstrip().endswith("the network was not stored (tracking.store_model=false).")
    assert facts.metrics["stored_mb"] > 0, "the size is measured all the same"


def test_loading_it_and_starting_from_it_are_errors_that_name_the_setting(experiment: Experiment) -> None:
    _, run_id = recorded(experiment)
    with pytest.raises(TrackingError, match=REFUSED):
        quantexp.load(run_id)
    again = replace(experiment, quant=NoQuant(), precision=None, train=Train(checkpoint=f"runs:/{run_id}"))
    with pytest.raises(TrackingError, match=REFUSED):
        run(again)


@pytest.mark.slow
def test_it_is_reproduced_without_its_network(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    store, run_id = recorded(experiment)
    reproduce(run_id, Local())  # its speedups may differ
    assert "the original run was recorded without its network, and so is this one" in capsys.readouterr().out
    other = next(facts for facts in store.search(RUNS) if facts.run_id != run_id)
    assert WITHOUT_MODEL in other.tags


def test_a_run_stores_its_network_unless_it_is_told_not_to(experiment: Experiment) -> None:
    store, run_id = recorded(replace(experiment, tracking=Local()))
    assert "model" in files(run_id)
    assert WITHOUT_MODEL not in store.run(run_id).tags
    assert quantexp.load(run_id)

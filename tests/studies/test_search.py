"""`study=search` on networks that are trained: what it answers, what it leaves in the store, and how it goes on."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from safetensors.torch import save_file

from quantexp.config import (
    Dynamic,
    Experiment,
    FakeQuant,
    Granularity,
    Local,
    Mlp,
    Mnist,
    NoQuant,
    Paired,
    Quant,
    Search,
    Single,
    Static,
    Train,
)
from quantexp.runner import study as conducting
from quantexp.runner.finished import read_finished_run
from quantexp.runner.reproduce import restore
from quantexp.runner.study import run_study
from quantexp.runner.tracked import Request
from quantexp.system.errors import ConfigError
from quantexp.tracking.names import PARENT
from quantexp.tracking.store import open_store
from tests.studies.fragile import fragile

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]
CHOICES = {"task": "mnist", "model": "mlp", "quant": "static", "study": "search"} | {
    group: "default" for group in ("train", "benchmark", "tracking")
}
ARTIFACTS = {"config.yaml", "environment.json", "pictures", "table.md", "history.csv"}
LAYERS = ("layers.0", "layers.2", "layers.4")


@pytest.fixture
def small(sample: Callable[..., Experiment]) -> Callable[..., Experiment]:
    """Build a search over an MLP of 400-128-128-10 on the sample, whose answer no timing decides."""

    def build(**parts: object) -> Experiment:
        settings: dict[str, object] = {
            "task": Mnist(hidden=[128, 128]),
            "model": Mlp(hidden=[128, 128]),
            "quant": Static(calibration_examples=64),
            "train": Train(epochs=5, threads=1),
            "benchmark": Paired(placements=2, seconds=0.01),
            "batch_size": 1,
            "study": Search(objective="size"),  # type: ignore[arg-type]
        }
        return sample(**{**settings, **parts})

    return build


@pytest.fixture
def breaking(workdir: Path, small: Callable[..., Experiment]) -> Callable[..., Experiment]:
    """Build a search over that network with a layer that int8 destroys."""

    def build(layer: int, **study: object) -> Experiment:
        weights = workdir / f"fragile-{layer}.safetensors"
        save_file(fragile(small(study=Single()), layer), weights)
        return small(
            quant=Static(weights=Granularity.per_tensor, calibration_examples=64),
            train=Train(checkpoint=str(weights), threads=1),
            study=Search(**{"objective": "size", **study}),  # type: ignore[arg-type]
        )

    return build


def done(experiment: Experiment) -> list[str]:
    """Do what the command does, and return the lines of the table of the study's own run."""
    request = Request(CHOICES, ["study=search"], OmegaConf.to_yaml(OmegaConf.structured(experiment)))
    run_study(experiment, request)
    return table()


def runs() -> tuple[Any, list[Any], list[Any]]:
    """Return a client, the runs of searches, and those of variants, as the store in the working directory has them."""
    store = open_store(Local())
    every = list(store.search(""))
    studies = [run for run in every if run.params.get("study") == "search"]
    return store.client, studies, [run for run in every if run not in studies]


def table() -> list[str]:
    client, studies, _ = runs()
    return str(client.get_run(studies[0].run_id).data.tags["mlflow.note.content"]).splitlines()


def answer(lines: list[str]) -> str:
    return lines[2].split(" | ")[0].removeprefix("| answer: ")


def history() -> list[dict[str, str]]:
    client, studies, _ = runs()
    path = client.download_artifacts(studies[0].run_id, "history.csv")
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- what it answers -------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", [2, 4])
def test_a_layer_whose_weights_round_to_zero_is_kept_in_float_and_no_other(
    breaking: Callable[..., Experiment], layer: int
) -> None:
    lines = done(breaking(layer, max_accuracy_drop=0.05))
    assert answer(lines) == f"all but layers.{layer}"
    kept = ",".join(name for name in LAYERS if name != f"layers.{layer}")
    (command,) = (line for line in lines if "To run the answer alone" in line)
    assert command.endswith(f"'quant.include=[{kept}]' validation=0.1")
    assert any("is underestimated" in line for line in lines), "they were trained on what is held out here"


@pytest.mark.exhaustive
def test_a_bound_of_zero_gives_a_model_no_worse_than_float_on_validation(breaking: Callable[..., Experiment]) -> None:
    done(breaking(2, max_accuracy_drop=0))
    _, (study,), _ = runs()
    assert study.metrics["best/accuracy_drop"] <= 0
    assert study.metrics["best/within_bound"] == 1


def test_where_nothing_quantized_will_do_the_answer_is_float(breaking: Callable[..., Experiment]) -> None:
    lines = done(breaking(2, max_accuracy_drop=0.05, layers=["layers.4"]))  # layers.2 is always quantized
    assert answer(lines) == "none"
    assert any(
        "Answer: float; no quantized variant meets the bound, the nearest is static int8" in one for one in lines
    )
    assert len(runs()[2]) == 2
    assert not any("To run the answer alone" in line for line in lines)


@pytest.mark.exhaustive
def test_without_a_candidate_within_the_bound_the_nearest_is_named(
    small: Callable[..., Experiment], workdir: Path
) -> None:
    lines = done(small(study=Search(objective="size", max_accuracy_drop=-0.5)))  # type: ignore[arg-type]
    assert any(
        "Answer: none; no candidate meets the bound (gain of at least 50.00 points), the nearest is" in line
        for line in lines
    )


@pytest.mark.exhaustive
def test_layers_may_be_left_to_another_method_and_each_variant_can_be_made_again(
    workdir: Path, small: Callable[..., Experiment]
) -> None:
    done(small(study=Search(objective="size", methods=["dynamic", "static"])))  # type: ignore[arg-type]
    store = open_store(Local())
    made = [restore(read_finished_run(store, run.run_id)) for run in runs()[2]]
    methods = {type(one.quant) for one in made}
    assert methods == {Static, Dynamic}
    assert any(isinstance(one.quant, Static) and one.quant.dynamic for one in made), "and a mix of both"
    assert {one.quant.name for one in made} == {run.params["quant"] for run in runs()[2]}
    assert {one["method"] for one in history()} == {"float", "static", "dynamic"}
    assert {(str(one.study.name), one.validation) for one in made} == {("single", 0.1)}


# -- what it leaves, and how it goes on ------------------------------------------------------------------


def test_all_but_the_answer_are_measured_on_validation(workdir: Path, small: Callable[..., Experiment]) -> None:
    lines = done(small())
    client, (study,), variants = runs()
    assert study.status == "FINISHED"
    assert {entry.path for entry in client.list_artifacts(study.run_id)} == ARTIFACTS
    pictures = {entry.path for entry in client.list_artifacts(study.run_id, "pictures")}
    assert pictures == {"pictures/accuracy_by_latency.png", "pictures/accuracy_by_size.png"}
    splits = [run.params["evaluation"] for run in variants]
    assert splits == ["test", *["validation"] * (len(variants) - 1)], "the latest first"
    assert {run.tags[PARENT] for run in variants} == {study.run_id}
    assert any("On the test split: " in line for line in lines)
    assert any("144 examples held out of the training split" in line for line in lines)
    counted = [one.value for one in client.get_metric_history(study.run_id, "variants")]
    assert counted == [*range(1, len(variants)), len(variants) - 1]
    assert len(history()) == len(variants), "float in place of the run on test"


@pytest.mark.exhaustive
def test_a_search_that_is_interrupted_shows_the_best_so_far_and_goes_on_to_the_same_answer(
    workdir: Path,
    breaking: Callable[..., Experiment],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = iter(range(3))

    def stopped(experiment: Experiment, request: Request) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(experiment, request)

    real = conducting.run_single
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(conducting, "run_single", stopped)
        done(breaking(2, max_accuracy_drop=0.05))
    _, (study,), before = runs()
    assert (study.status, len(before), study.metrics["variants"]) == ("KILLED", 3, 3)
    assert "Best so far" in capsys.readouterr().out
    assert any("Best so far" in line for line in table())

    lines = done(breaking(2, max_accuracy_drop=0.05))
    _, (again,), after = runs()
    assert (again.run_id, again.status) == (study.run_id, "FINISHED")
    assert {run.run_id for run in before} < {run.run_id for run in after}
    assert len({run.name for run in after}) == len(after), "none is measured twice"
    assert answer(lines) == "all but layers.2"
    assert done(breaking(2, max_accuracy_drop=0.05)) == lines
    assert len(runs()[2]) == len(after)


def test_a_process_that_is_killed_leaves_what_it_found_and_the_next_one_goes_on(workdir: Path, cache: Path) -> None:
    settings = ["study=search", "study.objective=size", "data=sample", "quant=dynamic", "batch_size=1"]
    settings += ["model.hidden=[128,128]", "benchmark.placements=2", "benchmark.seconds=0.3", f"cache_dir={cache}"]
    command = [sys.executable, "-m", "quantexp", *settings]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len([run for run in runs()[2] if run.status == "FINISHED"]) < 2:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    _, (study,), killed = runs()
    assert study.status == "RUNNING"
    finished = {run.run_id for run in killed if run.status == "FINISHED"}
    assert finished

    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "answer: " in ended.stdout
    _, (again,), after = runs()
    assert (again.run_id, again.status) == (study.run_id, "FINISHED")
    done_once = [run for run in after if run.status == "FINISHED"]
    assert finished < {run.run_id for run in done_once}
    assert len({run.name for run in done_once}) == len(done_once), "none is measured twice"
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.splitlines()[:8] == ended.stdout.splitlines()[:8]


# -- bad inputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", [NoQuant(), FakeQuant()], ids=lambda one: str(one.name))
def test_a_method_that_makes_no_layer_smaller_is_refused_with_those_that_do(quant: Quant) -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(quant=quant, study=Search())
    assert error.value.faults == (
        "study=search needs a method that quantizes layers one by one (quant=dynamic, quant=weight_only, "
        f"quant=static, quant=qat), got quant={quant.name}",
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"methods": ["static", "amp"]}, "(dynamic, weight_only, static, qat), got 'amp'"),
        ({"methods": ["static", "static"]}, "study.methods must name each method once, got ['static', 'static']"),
        ({"methods": ["static", "qat"], "max_variants": 1}, "at least 1 for each of the 2 methods, got 1"),
        ({"max_accuracy_drop": 1.5}, "study.max_accuracy_drop must be at most 1, got 1.5"),
        ({"objective": "speed"}, "study.objective must be one of latency, size, got 'speed'"),
    ],
)
def test_settings_that_cannot_be_searched_with_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        Search(**settings)
    assert told in str(error.value)


def test_a_batch_size_that_is_not_measured_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        ConfigError, match=r"study\.batch_size must be one that is measured, got 8; .*batch_size=\[1, 64\]"
    ):
        Experiment(study=Search(batch_size=8))

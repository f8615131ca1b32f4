"""The validation split: held out of train, never calibrated on, and measured on where the run says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from quantexp import tasks
from quantexp.config import (
    DataRequest,
    DataSource,
    EvaluationSplit,
    Experiment,
    Kind,
    Mlp,
    Mnist,
    Sst2,
    Static,
    Task,
    Train,
)
from quantexp.mission import load, run
from quantexp.system.errors import ConfigError
from quantexp.tasks import mnist
from quantexp.tasks.data import Split, TaskData, held_out

TRAIN = {"mnist": 1437, "sst2": 640}  # examples of the samples
TASKS = [pytest.param(Mnist(crop=20), id="mnist"), pytest.param(Sst2(), id="sst2")]


def loaded(task: Task, validation: float = 0.25, seed: int = 0, **request: object) -> TaskData:
    settings = {"validation": validation, "validation_seed": seed, **request}
    return tasks.load(task, Kind.features, DataRequest(DataSource.sample, **settings))  # type: ignore[arg-type]


def examples(split: Split) -> set[tuple[float, ...]]:
    """Return the inputs; no two examples of a sample are equal."""
    return {tuple(row) for row in split.inputs(torch.arange(len(split)))[0].tolist()}


def validation(data: TaskData) -> Split:
    assert data.validation is not None
    return data.validation


@pytest.mark.parametrize("task", TASKS)
def test_what_is_validated_on_is_neither_trained_nor_calibrated_on(task: Task) -> None:
    data = loaded(task, calibration_examples=400)
    held = round(TRAIN[task.name] / 4)
    assert (len(data.train), len(validation(data))) == (TRAIN[task.name] - held, held)
    assert not examples(validation(data)) & examples(data.train)
    assert examples(data.calibration) <= examples(data.train)
    everything = loaded(task, 0)
    assert everything.validation is None
    assert len(data.test) == len(everything.test)
    if task.name == "mnist":  # of a bag of words the features depend on what is trained on
        assert examples(validation(data)) | examples(data.train) == examples(everything.train)
        assert examples(data.test) == examples(everything.test)


def test_the_seed_decides_which_examples_are_held_out_and_all_keep_their_order() -> None:
    kept, held = held_out(100, DataRequest(validation=0.3, validation_seed=1))
    assert kept.tolist() == sorted(set(range(100)) - set(held.tolist()))
    assert held.tolist() == sorted(held.tolist())
    assert len(held) == 30
    assert torch.equal(held_out(100, DataRequest(validation=0.3, validation_seed=1, seed=9))[1], held)
    assert not torch.equal(held_out(100, DataRequest(validation=0.3, validation_seed=2))[1], held)
    kept, held = held_out(100, DataRequest())
    assert (kept.tolist(), held.tolist()) == (list(range(100)), [])


def test_words_of_what_is_held_out_are_not_counted() -> None:
    data = loaded(Sst2(), calibration_examples=10)
    counted = data.train.inputs(torch.arange(len(data.train)))[0].sum(0)
    assert len(counted) == len(data.vocabulary) < len(loaded(Sst2(), 0).vocabulary)
    assert bool((counted > 0).all())


def test_a_share_that_is_no_example_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least one of 640 training examples, got 0\.0005"):
        loaded(Sst2(), 0.0005)


def test_measuring_on_what_is_not_held_out_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"evaluation=validation needs examples .* got validation=0; .* validation=0\.1"
    ):
        Experiment(evaluation=EvaluationSplit.validation)


def test_the_files_are_read_once_whichever_split_is_measured_on(
    sample: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, reads = mnist.load, []

    def reading(task: Mnist, kind: Kind, request: DataRequest) -> TaskData:
        reads.append(request.validation)
        return real(task, kind, request)

    monkeypatch.setattr(mnist, "load", reading)
    monkeypatch.setattr(tasks, "_last_loaded", None)
    for split in ("test", "validation", "test"):
        data = load(sample(validation=0.1, evaluation=split))
        assert data.evaluated is (data.test if split == "test" else data.validation)
    assert reads == [0.1]
    load(sample())
    load(sample(validation=0.1, seed=1))
    assert reads == [0.1, 0, 0.1]


def test_a_run_on_the_validation_split_measures_there_and_says_so(sample: Callable[..., Experiment]) -> None:
    parts = {"model": Mlp(hidden=[8]), "train": Train(epochs=1, threads=1), "quant": Static(), "batch_size": 1}
    validated = run(sample(validation=0.1, evaluation="validation", **parts)).report
    tested = run(sample(validation=0.1, **parts)).report
    assert (validated.data.evaluation, validated.data.evaluated) == ("validation", 144)
    assert (validated.data.train, validated.data.validation, validated.data.test) == (1293, 144, 360)
    assert (validated.result.quality.total, tested.result.quality.total) == (144, 360)
    assert (tested.data.evaluation, tested.data.evaluated) == ("test", 360)

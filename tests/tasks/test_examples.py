"""A part of the training examples: drawn with the seed, after the validation split, and named wherever it shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from quantexp import tasks
from quantexp.config import (
    CustomTask,
    DataRequest,
    DataSource,
    Experiment,
    Kind,
    Mlp,
    Mnist,
    NoQuant,
    Sst2,
    Static,
    Task,
    Train,
)
from quantexp.mission import load, run
from quantexp.results import Data
from quantexp.runner.labels import run_name
from quantexp.system.errors import ConfigError
from quantexp.tasks.data import Split, TaskData, held_out
from tests import builders

TASKS = [pytest.param(Mnist(crop=20), id="mnist"), pytest.param(Sst2(), id="sst2")]


class Numbers:
    """A task of one's own: forty examples, each with its number as the feature."""

    gives = "features"

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.arange(40.0)[:, None], torch.arange(40) % 2

    test = train


OWN = CustomTask(target=f"{__name__}.Numbers")


def loaded(task: Task, source: DataSource = DataSource.sample, **request: object) -> TaskData:
    return tasks.load(task, Kind.features, DataRequest(source, **request))  # type: ignore[arg-type]


def numbers(split: Split) -> list[int]:
    return [int(value) for value in split.inputs(torch.arange(len(split)))[0][:, 0]]


def test_the_seed_draws_them_and_fewer_are_a_part_of_more() -> None:
    drawn = {
        (count, seed): held_out(100, DataRequest(examples=count, validation_seed=seed))[0].tolist()
        for count in (10, 30)
        for seed in (0, 1)
    }
    assert [len(rows) for rows in drawn.values()] == [10, 10, 30, 30]
    assert all(rows == sorted(set(rows)) for rows in drawn.values()), "each once, in the order of the file"
    assert set(drawn[10, 0]) < set(drawn[30, 0])
    assert drawn[10, 0] != drawn[10, 1]
    assert held_out(100, DataRequest(examples=10, seed=9))[0].tolist() == drawn[10, 0], "not by that of calibration"


def test_they_are_drawn_from_what_is_not_held_out_and_the_same_is_held_out() -> None:
    held = held_out(100, DataRequest(validation=0.3))[1].tolist()
    rows, still = held_out(100, DataRequest(validation=0.3, examples=50))
    assert still.tolist() == held
    assert len(rows) == 50
    assert not set(rows.tolist()) & set(held)


def test_more_than_there_are_is_an_error_with_the_number() -> None:
    assert len(held_out(70, DataRequest(examples=70))[0]) == 70
    with pytest.raises(
        ConfigError, match=r"train\.examples must be at most 70, the number of training examples, got 71; lower"
    ):
        held_out(70, DataRequest(examples=71))
    with pytest.raises(ConfigError, match=r"at most 63, .* that are not held out, got 64"):
        held_out(70, DataRequest(validation=0.1, examples=64))


@pytest.mark.parametrize("task", TASKS)
def test_training_and_calibration_see_only_them_and_the_test_split_stays_whole(task: Task) -> None:
    data, everything = loaded(task, examples=200, calibration_examples=150), loaded(task)
    assert (len(data.train), len(data.calibration)) == (200, 150)
    assert len(data.test) == len(everything.test)
    assert data.fingerprint == everything.fingerprint
    labels = data.train.labels
    assert labels is not None
    assert len(labels) == 200
    with pytest.raises(ConfigError, match="calibration_examples must be at most 200"):
        loaded(task, examples=200, calibration_examples=201)


def test_words_of_examples_that_are_not_drawn_are_not_counted() -> None:
    data = loaded(Sst2(), examples=50, calibration_examples=10)
    assert len(data.vocabulary) < len(loaded(Sst2()).vocabulary)
    assert bool((data.train.inputs(torch.arange(50))[0].sum(0) > 0).all())


def test_a_task_of_the_users_own_is_drawn_from_too_and_its_fingerprint_does_not_follow_the_seed() -> None:
    ask = {"examples": 12, "calibration_examples": 12}
    first, again, other = (loaded(OWN, DataSource.full, **ask, validation_seed=seed) for seed in (0, 0, 1))
    assert numbers(first.train) == numbers(again.train) == sorted(numbers(first.calibration))
    assert numbers(first.train) != numbers(other.train)
    assert first.fingerprint == other.fingerprint == loaded(OWN, DataSource.full, calibration_examples=9).fingerprint
    assert len(first.test) == 40


def test_runs_that_draw_differently_do_not_share_what_was_loaded(sample: Callable[..., Experiment]) -> None:
    parts = {"quant": NoQuant()}
    counts = [len(load(sample(train=Train(examples=count), **parts)).train) for count in (100, None, 50)]
    assert counts == [100, 1437, 50]


def test_random_inputs_are_not_drawn_from() -> None:
    with pytest.raises(ConfigError, match=r"data=synthetic trains nothing, got train\.examples=100; leave it out"):
        Experiment(data=DataSource.synthetic, train=Train(examples=100))


@pytest.mark.parametrize("count", [0, -1])
def test_none_at_all_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=r"train\.examples must be at least 1"):
        Train(examples=count)


# Where they show


def test_a_run_says_how_many_it_used_in_its_report_and_its_title(
    sample: Callable[..., Experiment], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train = Train(epochs=1, threads=1, examples=600)
    report = run(sample(model=Mlp(hidden=[8]), train=train, quant=Static(), batch_size=1)).report
    assert (report.data.train, report.data.calibration, report.data.test) == (600, 512, 360)
    assert report.network_name == "mnist (sample, 600 training examples), mlp"
    assert "600 train (drawn by train.examples), 512 calibration, 360 test" in caplog.text


def test_titles_name_them_only_where_they_are_a_part() -> None:
    data = dataclasses.replace(builders.data(), train=10_000, drawn=True)
    assert builders.report(data=data).task_name == "mnist (10,000 training examples)"
    assert builders.report(data=dataclasses.replace(data, train=1)).task_name == "mnist (1 training example)"
    assert builders.report().task_name == "mnist"
    assert Data("full", "there", "f", 3, 2, 1).drawn is False, "reports from before the setting"


def test_the_name_of_a_run_has_them_however_they_were_set() -> None:
    experiment = Experiment(quant=Static(), train=Train(examples=10_000))
    choices = {"task": "mnist", "quant": "static"}
    assert run_name(experiment, choices, []) == "mnist-10000examples-static-int8-s0"
    assert run_name(experiment, choices, ["train.examples=10000"]) == "mnist-10000examples-static-int8-s0"

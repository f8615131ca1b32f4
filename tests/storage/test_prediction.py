"""A stored model on raw inputs: it says what the run said of its own test examples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import quantexp
from quantexp.config import METHODS, Dynamic, Experiment, Kind, Mlp, Mnist, NoQuant, Quant, Sst2, Static, Task, Train
from quantexp.mission import input_kind
from quantexp.mission import load as load_data
from quantexp.storage.prediction import Prediction, StoredModel
from quantexp.storage.recipe import Recipe
from quantexp.storage.stored import load, save
from quantexp.system.errors import ModelError
from quantexp.tasks import mnist
from quantexp.tasks.data import TaskData
from quantexp.tasks.sst2 import parse_tsv
from quantexp.training.loop import outputs
from tests.runs import quantized

Sample = Callable[..., Experiment]
Stored = Callable[..., tuple[Path, nn.Module, TaskData]]

SENTENCES = Path(mnist.__file__).parent / "sample" / "sst2" / "dev.tsv"


@pytest.fixture
def stored(sample: Sample, tmp_path: Path) -> Stored:
    """Quantize a small network and save it; the folder, the network, and the data."""

    def build(task: Task, quant: Quant) -> tuple[Path, nn.Module, TaskData]:
        train = Train(epochs=4, learning_rate=0.01, threads=1)  # enough to tell the classes apart
        experiment = sample(task=task, quant=quant, model=Mlp(hidden=[16]), train=train)
        data = load_data(experiment)
        model = quantized(experiment, data).model
        save(tmp_path / "model", model, Recipe.of(experiment, data, input_kind(experiment)))
        return tmp_path / "model", model, data

    return build


def raw_test_inputs(task: Task) -> Any:
    """The test examples of the sample as a user has them: images, or sentences."""
    if isinstance(task, Mnist):
        return mnist._sample()[0][: mnist.SAMPLE_TEST].numpy()
    return [sentence for sentence, _ in parse_tsv(SENTENCES.read_bytes(), SENTENCES)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("task", [Mnist(), Mnist(crop=25), Sst2()], ids=["mnist", "mnist crop=25", "sst2"])
def test_raw_test_examples_are_predicted_as_the_run_predicted_them(
    stored: Stored, task: Task, method: type[Quant]
) -> None:
    folder, model, data = stored(task, method())
    found = load(folder).predict(raw_test_inputs(task))
    assert isinstance(found, list)
    assert [one.label for one in found] == outputs(model, data.test).argmax(1).tolist()
    assert len({one.label for one in found}) == data.classes


@pytest.mark.parametrize("task", [Mnist(), Sst2()], ids=["mnist", "sst2"])
def test_one_raw_input_gives_one_prediction_and_a_list_of_one_gives_a_list(stored: Stored, task: Task) -> None:
    model = load(stored(task, Static())[0])
    first = raw_test_inputs(task)[0]
    one = model.predict(first)
    assert isinstance(one, Prediction)
    assert model.predict([first]) == [one]


def test_probabilities_are_the_softmax_of_the_logits(stored: Stored) -> None:
    folder, _, data = stored(Mnist(), NoQuant())
    model = load(folder)
    one = model.predict(raw_test_inputs(Mnist())[7])
    with torch.no_grad():
        logits = model(*data.test.inputs(torch.tensor([7])))[0].tolist()
    expected = [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]
    assert isinstance(one, Prediction)
    assert one.probabilities == pytest.approx(expected, rel=1e-9)
    assert sum(one.probabilities) == pytest.approx(1.0, abs=1e-12)
    assert one.label == max(range(10), key=one.probabilities.__getitem__)
    assert one.name is None


def test_a_sentence_gets_the_name_of_its_class(stored: Stored) -> None:
    found = load(stored(Sst2(), NoQuant())[0]).predict(raw_test_inputs(Sst2()))
    assert isinstance(found, list)
    assert {(one.label, one.name) for one in found} == {(0, "negative"), (1, "positive")}


def test_a_prediction_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Prediction(0, (1.0,)).label = 1  # type: ignore[misc]


def test_a_loaded_model_leaves_no_gradients_and_is_in_evaluation_mode(stored: Stored) -> None:
    model = load(stored(Mnist(), NoQuant())[0])
    model.predict(raw_test_inputs(Mnist())[0])
    assert not model.training
    assert not model.network.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_was_stored_without_a_task_says_so() -> None:
    with pytest.raises(ModelError, match="raw inputs need the task of the model, but it was stored without"):
        StoredModel(nn.Linear(4, 2), None, Kind.features, ()).predict("a fine film")


@pytest.mark.parametrize("raw", [b"a fine film", [], 3, ["a fine film", 3]], ids=repr)
def test_raw_inputs_that_are_none_of_the_task_are_an_error(stored: Stored, raw: object) -> None:
    with pytest.raises(ModelError, match=r"raw inputs of sst2 must be a sentence, or a list .* (got|contains) "):
        load(stored(Sst2(), Dynamic())[0]).predict(raw)


def test_the_package_names_what_load_gives() -> None:
    assert quantexp.StoredModel is StoredModel
    assert quantexp.Prediction is Prediction

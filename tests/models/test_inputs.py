"""What a network of the user's own takes and gives: kinds of input, input specs, outputs that hold logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp import models
from quantexp.config import (
    METHODS,
    ByLayer,
    CustomModel,
    CustomTask,
    DataSource,
    Experiment,
    Flow,
    Kind,
    Mnist,
    Quant,
    Sst2,
    Static,
    Taken,
    Train,
)
from quantexp.mission import input_kind, load
from quantexp.models.custom import takes
from quantexp.results import InputSpec
from quantexp.system.errors import ConfigError
from tests.networks import inspected, loaded_again, made
from tests.runs import quantized
from tests.tokens import CLASSES, SPECS, Averages

Sample = Callable[..., Experiment]
Specs = Sequence[InputSpec]


class Pictures(nn.Module):
    """Takes images of any size, as its specs describe them."""

    takes = "image"

    def __init__(self, inputs: Specs, classes: int, maps: int = 4) -> None:
        super().__init__()
        (self.spec,) = inputs
        channels, height, width = self.spec.measured
        self.features = nn.Sequential(nn.Conv2d(channels, maps, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(maps * (height // 2) * (width // 2), classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.flatten(self.features(images), 1))
        return logits


def pictures(inputs: Specs, classes: int) -> nn.Module:
    """A function may say what it takes as a class does."""
    return Pictures(inputs, classes)


pictures.takes = ("image",)  # type: ignore[attr-defined]


class Either(nn.Module):
    """Takes images or their values in a row, images preferred."""

    takes = ("image", "features")

    def __init__(self, inputs: Specs, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].values, classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class Numbers(nn.Module):
    """Says nothing: it gets the number of the values that an example has."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        return logits


def numbers(inputs: int, classes: int, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, classes, bias=bias))


class Misnamed(Pictures):
    takes = "pictures"


class Miscounted(Pictures):
    takes = 3  # type: ignore[assignment]


def own(name: str, **arguments: object) -> CustomModel:
    return CustomModel(target=f"{__name__}.{name}", arguments=dict(arguments))


# What it takes


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("Pictures", [Kind.image]),
        ("pictures", [Kind.image]),
        ("Either", [Kind.image, Kind.features]),
        ("Numbers", [Kind.features]),
        ("numbers", [Kind.features]),
    ],
)
def test_a_class_or_a_function_says_which_kinds_of_input_it_takes(name: str, kinds: list[Kind]) -> None:
    assert takes(own(name)) == tuple(Taken(kind) for kind in kinds)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Pictures", (1, 20, 20)),
        ("pictures", (1, 20, 20)),
        ("Either", (1, 20, 20)),
        ("Numbers", (400,)),
        ("numbers", (400,)),
    ],
)
def test_the_task_gives_what_the_network_takes(sample: Sample, tmp_path: Path, name: str, shape: tuple[int]) -> None:
    experiment = sample(model=own(name), quant=Static(), train=Train(epochs=1, threads=1))
    data = load(experiment)
    assert [spec.shape for spec in data.inputs] == [shape]
    assert data.test.first(3)[0].shape == (3, *shape)
    network = quantized(experiment, data).model
    assert inspected(network, *data.example).mac_share("int8") == 1.0
    again = loaded_again(tmp_path, network, experiment, data, trust=True)
    with torch.no_grad():
        assert torch.equal(again(*data.test.first(64)), network(*data.test.first(64)))


def test_what_takes_specs_is_built_with_them_and_what_says_nothing_with_the_number_of_values() -> None:
    spec = InputSpec("pixels", (3, 8, 8))
    network = models.build(own("Pictures", maps=2), (spec,), 5)
    assert isinstance(network, Pictures)
    assert network.spec == spec
    assert network.head.in_features == 2 * 4 * 4
    assert network.training
    (weight,) = models.build(own("numbers", bias=False), (InputSpec("values", (7,)),), 5).parameters()
    assert weight.shape == (5, 7)


def test_tokens_are_given_as_ids_and_mask() -> None:
    network = models.build(CustomModel(target="tests.tokens.Averages"), SPECS, CLASSES)
    assert isinstance(network, Averages)
    assert network.embedding.num_embeddings == 40


@pytest.mark.parametrize(("name", "got"), [("Misnamed", "'pictures'"), ("Miscounted", "3")])
def test_kinds_that_are_none_are_told_with_those_that_there_are(name: str, got: str) -> None:
    with pytest.raises(ConfigError) as error:
        takes(own(name))
    assert str(error.value) == (
        f"the attribute `takes` of model.target={__name__}.{name} must name kinds of input "
        f"(features, image, sequence, tokens, waveform), got {got}"
    )


@pytest.mark.parametrize(
    ("task", "model", "told"),
    [
        (
            Sst2(),
            own("Pictures"),
            "model=custom takes image, task=sst2 gives features or tokens; task=sst2 goes with model=",
        ),
        (
            Mnist(),
            CustomModel(target="tests.tokens.Averages"),
            "model=custom takes tokens, task=mnist gives features or image; task=mnist goes with model=mlp, ",
        ),
        (
            CustomTask(target="tests.tokens.Sentences"),
            own("Numbers"),
            "model=custom takes features, task=custom gives tokens; task=custom goes with model=",
        ),
    ],
)
def test_a_network_that_takes_nothing_that_the_task_gives_is_told_with_the_pairs_that_fit(
    sample: Sample, task: Any, model: CustomModel, told: str
) -> None:
    experiment = sample(task=task, model=model, data=DataSource.full)
    with pytest.raises(ConfigError) as error:
        input_kind(experiment)
    assert str(error.value).startswith(told)
    assert "; model=custom with task=" in str(error.value)


def test_inputs_that_the_network_cannot_take_after_all_are_told_with_their_types() -> None:
    with pytest.raises(ConfigError) as error:
        models.build(CustomModel(target="tests.tokens.Averages"), (SPECS[0],), CLASSES)
    assert str(error.value).startswith(
        "model.target=tests.tokens.Averages must take (2, 12) (int64), but it failed (Type"
    )
    assert str(error.value).endswith("; correct it or model.arguments")


# What it gives


class Held(Numbers):
    """Two layers, whose output is held as `how` says."""

    def __init__(self, inputs: int, classes: int, how: str = "") -> None:
        super().__init__(inputs, classes)
        self.first, self.how = nn.Linear(inputs, inputs), how

    def forward(self, x: Tensor) -> Any:
        hidden = torch.relu(self.first(x))
        logits = self.head(hidden)
        if self.how == "logits":
            return SimpleNamespace(logits=logits, hidden=hidden)
        return {"": logits, "tuple": (logits, hidden), "list": [logits], "dict": {"logits": logits}, "none": None}[
            self.how
        ]


X = torch.linspace(-1.0, 1.0, 32).view(8, 4)
FLOWS = [
    (method, flow, precision)
    for method in METHODS
    for flow in (method.portable_flows() if issubclass(method, ByLayer) else (None,))
    for precision in (method.flows[flow] if issubclass(method, ByLayer) else method.precisions)
    if precision != "int4"
]


def held(how: str) -> nn.Module:
    torch.manual_seed(0)
    return models.build(own("Held", how=how), (InputSpec("values", (4,)),), 3).eval()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("method", "flow", "precision"), FLOWS, ids=lambda one: getattr(one, "name", str(one)))
def test_an_output_that_holds_the_logits_counts_as_the_logits(
    method: type[Quant], flow: Flow | None, precision: str
) -> None:
    option = method(flow=flow) if flow else method()  # type: ignore[call-arg]
    plain = held("")
    expected = made(option, plain, precision, X)
    for how in ("logits", "tuple", "list"):
        network = held(how)
        assert [name for name, _ in network.named_parameters()] == [name for name, _ in plain.named_parameters()]
        found = made(option, network, precision, X)
        with torch.no_grad():
            assert torch.equal(found(X), expected(X)), how
        assert inspected(found, X) == inspected(expected, X)


@pytest.mark.parametrize(("how", "got"), [("dict", "dict"), ("none", "NoneType")])
def test_an_output_that_holds_no_logits_is_told_in_words(how: str, got: str) -> None:
    with pytest.raises(ConfigError) as error:
        held(how)
    assert str(error.value).endswith(
        f"must return shape (2, 3) for (2, 4), one logit for each class; got {got}; correct it"
    )

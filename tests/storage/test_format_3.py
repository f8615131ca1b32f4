"""Networks that were stored when every network took one row of values are still read, and predict the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quantexp.models.mlp import MLP
from quantexp.results import InputSpec
from quantexp.state.checkpoint import float_weights
from quantexp.storage.prediction import StoredModel
from quantexp.storage.recipe import read
from quantexp.storage.stored import load
from quantexp.system.errors import ModelError
from quantexp.tasks import mnist

MNIST = {"name": "mnist", "hidden": [1024, 1024], "crop": 20}
WORDS = ("fine", "dull", "film", "a", "naïve")


def write(folder: Path, state: dict[str, Tensor], words: tuple[str, ...] = (), **changes: Any) -> Path:
    """Write a folder as it was written then: an mlp for mnist unless told otherwise."""
    recipe = {
        "format": 3,
        "task": MNIST,
        "model": {"name": "mlp", "hidden": [6]},
        "quant": {"name": "none"},
        "precision": "fp32",
        "inputs": 400,
        "classes": 10,
        **changes,
    }
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "state.safetensors")
    if words:
        (folder / "vocabulary.txt").write_bytes("\n".join(words).encode())
    return folder


def drawn(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """A state dict of these shapes, its dots written as underscores twice."""
    draw = torch.Generator().manual_seed(1)
    return {name.replace("__", "."): torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def mlp(inputs: int, hidden: int, classes: int) -> dict[str, Tensor]:
    return drawn(
        layers__0__weight=(hidden, inputs),
        layers__0__bias=(hidden,),
        layers__2__weight=(classes, hidden),
        layers__2__bias=(classes,),
    )


LENET5 = drawn(
    features__0__weight=(6, 1, 5, 5),
    features__0__bias=(6,),
    features__3__weight=(16, 6, 5, 5),
    features__3__bias=(16,),
    classifier__0__weight=(120, 400),
    classifier__0__bias=(120,),
    classifier__2__weight=(84, 120),
    classifier__2__bias=(84,),
    classifier__4__weight=(10, 84),
    classifier__4__bias=(10,),
)


def by_hand(state: dict[str, Tensor], values: Tensor) -> Tensor:
    """What the two layers of a multilayer perceptron give."""
    hidden = (values @ state["layers.0.weight"].T + state["layers.0.bias"]).relu()
    return hidden @ state["layers.2.weight"].T + state["layers.2.bias"]


@torch.no_grad()
def given(model: StoredModel, values: Tensor) -> Tensor:
    logits: Tensor = model(values)
    return logits


def labels(model: StoredModel, raw: Any) -> list[int]:
    found = model.predict(raw)
    assert isinstance(found, list)
    return [prediction.label for prediction in found]


def test_a_perceptron_of_digits_is_read_and_predicts_the_same(tmp_path: Path) -> None:
    state = mlp(400, 6, 10)
    model = load(write(tmp_path / "model", state))
    values = torch.randn(7, 400, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(given(model, values), by_hand(state, values))

    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    center = images[:, 4:24, 4:24].flatten(1).float().div(255).sub(mnist.MEAN).div(mnist.STD)
    assert labels(model, images) == by_hand(state, center).argmax(1).tolist()


def test_a_perceptron_of_sentences_is_read_with_its_words_and_predicts_the_same(tmp_path: Path) -> None:
    state = mlp(5, 6, 2)
    task = {"name": "sst2", "hidden": [256, 256, 256], "vocabulary": 5000}
    model = load(write(tmp_path / "model", state, WORDS, task=task, inputs=5, classes=2))
    assert model.preparation.vocabulary == WORDS
    counts = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(given(model, counts), by_hand(state, counts))
    assert labels(model, ["a film film", "naïve fine unheard"]) == by_hand(state, counts).argmax(1).tolist()
    assert {prediction.name for prediction in model.predict(list(WORDS))} <= {"negative", "positive"}  # type: ignore[union-attr]


def test_a_network_of_images_takes_their_values_in_a_row_as_it_did_then(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", LENET5, model={"name": "lenet5"}, task=MNIST | {"crop": 32}, inputs=1024)
    model = load(folder)
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    convolved = images
    for layer in (0, 3):
        convolved = nn.functional.conv2d(
            convolved, LENET5[f"features.{layer}.weight"], LENET5[f"features.{layer}.bias"]
        )
        convolved = nn.functional.max_pool2d(convolved.relu(), 2)
    values = convolved.flatten(1)
    for layer in (0, 2, 4):
        values = values if layer == 0 else values.relu()
        values = values @ LENET5[f"classifier.{layer}.weight"].T + LENET5[f"classifier.{layer}.bias"]
    torch.testing.assert_close(given(model, images.flatten(1)), values)

    raw = torch.randint(0, 256, (4, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    padded = nn.functional.pad(raw, (2, 2, 2, 2)).flatten(1).float().div(255).sub(mnist.MEAN).div(mnist.STD)
    assert labels(model, raw) == given(model, padded).argmax(1).tolist()


def test_what_it_takes_is_told_as_one_input_of_flat_values(tmp_path: Path) -> None:
    recipe = read(write(tmp_path / "model", mlp(400, 6, 10)))
    assert recipe.inputs == (InputSpec("features", (400,)),)
    assert (recipe.kind, recipe.runtime, recipe.target) == ("features", "eager", "kernels")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantized_network_is_read_and_predicts_the_same(tmp_path: Path) -> None:
    """Its state is that of torch's own quantized layers, beside the recipe with all its settings."""
    state = mlp(400, 6, 10)
    network = MLP(400, [6], 10)
    network.load_state_dict(state)
    quantized = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    quant = {
        "name": "dynamic",
        "flow": "eager",
        "engine": torch.backends.quantized.engine,
        "include": [],
        "exclude": [],
    }
    folder = write(tmp_path / "model", {}, quant=quant, precision="int8")
    (folder / "state.safetensors").unlink()
    torch.save(quantized.state_dict(), folder / "state.pt")
    values = torch.randn(7, 400, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = quantized(values)
    assert torch.equal(given(load(folder), values), expected)
    assert not torch.equal(expected, by_hand(state, values))


def test_its_float32_weights_are_taken_to_start_from(tmp_path: Path) -> None:
    state = mlp(400, 6, 10)
    weights = float_weights(write(tmp_path / "model", state))
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)
    wrapped = {f"model.{name}": value for name, value in state.items()}
    weights = float_weights(write(tmp_path / "amp", wrapped, quant={"name": "amp"}, precision="bf16"))
    assert all(torch.equal(weights[name], state[name]) for name in state)
    with pytest.raises(ModelError, match=r"got those of a run with quant=none and precision=bf16"):
        float_weights(write(tmp_path / "cast", wrapped, precision="bf16"))


DAMAGED: dict[str, dict[str, Any]] = {
    "inputs that are text": {"inputs": "many"},
    "inputs below zero": {"inputs": -1},
    "more inputs than there is memory": {"inputs": 10**15},
    "inputs that are not the task's": {"inputs": 399},
    "no method": {"quant": None},
    "another network": {"model": {"name": "mlp", "hidden": [7]}},
    "a field that is not known": {"owner": "me"},
    "a vocabulary of its own": {"vocabulary": ["a"]},
    "a task that counts words, without words": {"task": {"name": "sst2", "hidden": [], "vocabulary": 400}},
    "a network of the user's own": {"model": {"name": "custom", "target": "os.system", "arguments": {}}},
}


@pytest.mark.parametrize("changes", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_recipe_with_wrong_values_is_an_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        load(write(tmp_path / "model", mlp(400, 6, 10), **changes))


def test_without_its_state_it_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", mlp(400, 6, 10))
    (folder / "state.safetensors").unlink()
    with pytest.raises(ModelError, match=r"is damaged .*state\.pt"):
        load(folder)


class Payload:
    """What code in a pickle does: unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def test_code_in_its_state_does_not_run(tmp_path: Path) -> None:
    folder, marker = write(tmp_path / "model", mlp(400, 6, 10)), tmp_path / "marker"
    (folder / "state.safetensors").unlink()
    torch.save({"payload": Payload(marker)}, folder / "state.pt")
    with pytest.raises(ModelError, match=r"is damaged \(UnpicklingError"):
        load(folder)
    assert not marker.exists()

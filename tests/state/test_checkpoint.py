"""Weights to start from: a file of the user's own, or the network that a run stored; never unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quantexp.models.mlp import MLP
from quantexp.state.checkpoint import fill_from_file, fill_from_stored, float_weights
from quantexp.system.errors import ModelError, TrainingError


@pytest.fixture
def network() -> MLP:
    return MLP(4, [3], 2)


def test_a_checkpoint_that_is_missing_is_an_error_that_names_it(network: MLP, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train\.checkpoint must be .*gone\.pt does not exist"):
        fill_from_file(network, tmp_path / "gone.pt")


def test_a_checkpoint_that_is_a_folder_is_an_error(network: MLP, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not exist"):
        fill_from_file(network, tmp_path)


def test_a_checkpoint_of_another_kind_is_an_error_that_names_the_kinds(network: MLP, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    path.write_bytes(b"weights")
    with pytest.raises(TrainingError, match=r"must be a \.safetensors file or a \.pt state dict, got own\.onnx"):
        fill_from_file(network, path)


def test_a_checkpoint_of_another_model_is_an_error_that_names_layer_expected_and_found(
    network: MLP, tmp_path: Path
) -> None:
    path = tmp_path / "own.pt"
    torch.save({**network.state_dict(), "layers.0.weight": torch.zeros(3, 5), "extra": torch.zeros(2)}, path)
    with pytest.raises(TrainingError) as failure:
        fill_from_file(network, path)
    assert "layers.0.weight: expected (3, 4), found (3, 5)" in str(failure.value)
    assert "extra: expected None, found (2,)" in str(failure.value)
    assert "layers.2" not in str(failure.value), "layers that fit are not named"


def test_a_checkpoint_that_lacks_a_layer_is_an_error_that_names_it(network: MLP, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    state = network.state_dict()
    del state["layers.2.bias"]
    save_file(state, path)
    with pytest.raises(TrainingError, match=r"layers\.2\.bias: expected \(2,\), found None"):
        fill_from_file(network, path)


class Payload:
    """What code in a pickle does: unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def test_a_checkpoint_with_code_is_refused_and_the_code_does_not_run(network: MLP, tmp_path: Path) -> None:
    path, marker = tmp_path / "own.pt", tmp_path / "marker"
    torch.save({**network.state_dict(), "payload": Payload(marker)}, path)
    with pytest.raises(TrainingError, match=r"cannot be read as weights \(it holds more than weights"):
        fill_from_file(network, path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file was harmless after all, so the refusal proves nothing"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["own.safetensors", "own.pt"])
def test_a_checkpoint_that_is_not_finite_is_an_error_that_names_the_layer(
    network: MLP, tmp_path: Path, name: str, value: float
) -> None:
    path = tmp_path / name
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state["layers.2.weight"][1, 2] = value
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    with pytest.raises(TrainingError, match=r"finite floating-point numbers, layers\.2\.weight is not"):
        fill_from_file(network, path)


@pytest.mark.parametrize(
    "content", [[1.0], torch.zeros(2), {"state_dict": {"a": torch.zeros(1)}}], ids=["list", "tensor", "nested"]
)
def test_a_checkpoint_that_is_no_state_dict_is_an_error(network: MLP, tmp_path: Path, content: object) -> None:
    path = tmp_path / "own.pt"
    torch.save(content, path)
    with pytest.raises(TrainingError, match="must hold a state dict"):
        fill_from_file(network, path)


def quantized(weight: Tensor) -> Tensor:
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


@pytest.mark.parametrize("kind", [quantized, Tensor.to_sparse], ids=["quantized", "sparse"])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_a_checkpoint_of_weights_that_are_no_plain_tensors_is_an_error(
    network: MLP, tmp_path: Path, kind: Callable[[Tensor], Tensor]
) -> None:
    path = tmp_path / "own.pt"
    torch.save({**network.state_dict(), "layers.0.weight": kind(network.state_dict()["layers.0.weight"])}, path)
    with pytest.raises(TrainingError, match=r"layers\.0\.weight"):
        fill_from_file(network, path)


@pytest.mark.parametrize(
    ("count", "fits"), [(torch.tensor(7), True), (torch.tensor(7.0), True), (torch.tensor(1, dtype=torch.int8), False)]
)
def test_a_count_in_a_checkpoint_is_a_count_in_the_network(tmp_path: Path, count: Tensor, fits: bool) -> None:
    normed = nn.Sequential(nn.BatchNorm1d(4))  # counts its batches
    save_file({**normed.state_dict(), "0.num_batches_tracked": count}, tmp_path / "own.safetensors")
    if fits:
        fill_from_file(normed, tmp_path / "own.safetensors")
        assert int(normed.state_dict()["0.num_batches_tracked"]) == 7
    else:
        with pytest.raises(TrainingError, match="num_batches_tracked is not"):
            fill_from_file(normed, tmp_path / "own.safetensors")


@pytest.mark.parametrize("length", [0, 1, 5, 100, 1000])
@pytest.mark.parametrize("name", ["own.safetensors", "own.pt"])
def test_a_checkpoint_that_is_cut_off_is_an_error_that_names_it(
    network: MLP, tmp_path: Path, name: str, length: int
) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file({**network.state_dict(), "padding": torch.zeros(300)}, path)
    else:
        torch.save(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(TrainingError, match=name.replace(".", r"\.")):
        fill_from_file(network, path)


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02.", b"\x80\x02j\x01\x00\x00\x00.", b"\x80\x02r"],
    ids=["empty stack", "no such memo", "cut in an argument"],
)
def test_a_checkpoint_that_is_a_damaged_pickle_is_an_error(network: MLP, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.pt"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"own\.pt"):
        fill_from_file(network, path)


# A network that a run stored


def stored(folder: Path, network: MLP, method: str, precision: str) -> Path:
    """Write what is read of a stored network: its recipe, as far as it matters, and its weights."""
    wrapper = "model." if method == "amp" else ""
    folder.mkdir()
    save_file({f"{wrapper}{name}": value for name, value in network.state_dict().items()}, folder / "state.safetensors")
    (folder / "recipe.json").write_text(json.dumps({"quant": {"name": method}, "precision": precision}))
    return folder


@pytest.mark.parametrize(("method", "precision"), [("none", "fp32"), ("amp", "bf16"), ("amp", "fp16")])
def test_float32_weights_are_given_under_the_names_of_the_network(
    network: MLP, tmp_path: Path, method: str, precision: str
) -> None:
    folder = stored(tmp_path / "model", network, method, precision)
    assert float_weights(folder).keys() == network.state_dict().keys()
    fresh = MLP(4, [3], 2)
    fill_from_stored(fresh, folder, "train.checkpoint=runs:/1")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize(("method", "precision"), [("none", "bf16"), ("static", "int8"), ("weight_only", "int4")])
def test_weights_that_are_not_float32_are_refused(network: MLP, tmp_path: Path, method: str, precision: str) -> None:
    folder = stored(tmp_path / "model", network, method, precision)
    told = rf"got those of a run with quant={method} and precision={precision}"
    with pytest.raises(ModelError, match=told):
        float_weights(folder)
    with pytest.raises(TrainingError, match=rf"train\.checkpoint=runs:/1: .*{told}"):
        fill_from_stored(network, folder, "train.checkpoint=runs:/1")


def test_a_stored_network_of_other_layers_is_an_error_that_names_them(network: MLP, tmp_path: Path) -> None:
    folder = stored(tmp_path / "model", network, "none", "fp32")
    with pytest.raises(
        TrainingError, match=r"train\.checkpoint=runs:/1 does not fit .*expected \(9, 4\), found \(3, 4\)"
    ):
        fill_from_stored(MLP(4, [9], 2), folder, "train.checkpoint=runs:/1")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"quant": "none", "precision": "fp32"}'])
def test_a_stored_network_with_a_damaged_recipe_is_an_error(network: MLP, tmp_path: Path, content: str) -> None:
    folder = stored(tmp_path / "model", network, "none", "fp32")
    (folder / "recipe.json").write_text(content)
    with pytest.raises(ModelError, match="the stored network is damaged"):
        float_weights(folder)


def test_a_stored_network_without_its_weights_is_an_error(network: MLP, tmp_path: Path) -> None:
    folder = stored(tmp_path / "model", network, "none", "fp32")
    (folder / "state.safetensors").unlink()
    with pytest.raises(ModelError, match=r"damaged .*state\.safetensors"):
        float_weights(folder)

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from quantexp.benchmark.memory import memory_bytes
from quantexp.benchmark.size import parameter_count, size, state_bytes, weight_bytes
from quantexp.config import METHODS, Amp, Dynamic, Granularity, NoQuant, Qat, Quant, Static
from quantexp.models.mlp import MLP
from quantexp.results import InputSpec
from quantexp.storage import stored as storage
from quantexp.storage.recipe import Recipe
from quantexp.system.errors import BenchmarkError
from tests.networks import made

PAIRS = [
    (method, precision) for method in METHODS for precision in method.precisions if precision != "int4"
]  # int4 wants wider layers: tests/quant/test_weight_only.py


def of_pair(value: object) -> str:
    return value.name if isinstance(value, type) and issubclass(value, Quant) else str(value)


EXAMPLE = torch.linspace(-1.0, 1.0, 60).view(2, 30)
WEIGHTS, BIASES = 30 * 16 + 16 * 2, 16 + 2  # of the network below; each bias belongs to an output channel


def network(hidden: int = 16) -> nn.Module:
    return MLP(30, [hidden], 2).eval()


def stored(folder: Path, hidden: int, inputs: int = 30) -> Path:
    """Store a float network as a run does."""
    specs = (InputSpec("values", (inputs,)),)
    recipe = Recipe({}, {"name": "mlp", "hidden": [hidden]}, {"name": "none"}, "fp32", specs, 2)
    storage.save(folder, MLP(inputs, [hidden], 2).eval(), recipe)
    return folder


# The state dict, as the lab saves it


@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_the_size_is_that_of_the_file_that_torch_writes(tmp_path: Path, method: type[Quant], precision: str) -> None:
    model = made(method(), network(), precision, EXAMPLE)
    path = tmp_path / "archive.pt"  # torch writes the name of the file into it, and "archive" where there is none
    torch.save(model.state_dict(), path)
    assert state_bytes(model) == path.stat().st_size


def test_the_size_grows_by_the_bytes_of_the_weights() -> None:
    small, large = 100, 10_100
    weights = (30 + 1 + 2) * (large - small)  # a hidden unit has 30 weights in, a bias, and 2 weights out
    grown = state_bytes(network(large)) - state_bytes(network(small))
    assert grown == pytest.approx(4 * weights, abs=1024)  # each tensor is aligned to 64 bytes


def test_taking_the_size_leaves_the_model_as_it_was() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    assert state_bytes(model) == state_bytes(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Weights in memory, by the dtype that they are held in


def test_the_weights_of_the_float_model_take_four_bytes_each() -> None:
    assert weight_bytes(network()) == {"fp32": 4 * (WEIGHTS + BIASES)}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_cast_weights_take_two_bytes_each(precision: str) -> None:
    model = made(NoQuant(), network(), precision, EXAMPLE)
    assert weight_bytes(model) == {precision: 2 * (WEIGHTS + BIASES)}


def test_autocast_keeps_the_weights_in_float() -> None:
    assert weight_bytes(made(Amp(), network(), "bf16", EXAMPLE)) == {"fp32": 4 * (WEIGHTS + BIASES)}


@pytest.mark.parametrize(("precision", "each"), [("int8", 1), ("fp16", 2)])
def test_dynamic_quantization_packs_the_weights_and_keeps_the_biases_in_float(precision: str, each: int) -> None:
    model = made(Dynamic(), network(), precision, EXAMPLE)
    assert weight_bytes(model) == {precision: each * WEIGHTS, "fp32": 4 * BIASES}


@pytest.mark.parametrize("method", [Static, Qat])
def test_per_channel_weights_have_a_scale_and_a_zero_point_of_eight_bytes_a_channel(method: type[Static | Qat]) -> None:
    model = made(method(weights=Granularity.per_channel), network(), "int8", EXAMPLE)
    assert weight_bytes(model) == {
        "int8": WEIGHTS,
        "fp32": 4 * BIASES + 4,  # the scale of the input
        "fp64": 8 * BIASES,  # as many scales as biases: one a channel
        "int64": 8 * BIASES + 8,  # the zero point of the input
    }


@pytest.mark.parametrize("method", [Static, Qat])
def test_per_tensor_weights_have_no_scales_of_their_channels(method: type[Static | Qat]) -> None:
    model = made(method(weights=Granularity.per_tensor), network(), "int8", EXAMPLE)
    assert weight_bytes(model) == {"int8": WEIGHTS, "fp32": 4 * BIASES + 4, "int64": 8}


@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_every_variant_has_as_many_parameters(method: type[Quant], precision: str) -> None:
    assert parameter_count(made(method(), network(), precision, EXAMPLE)) == WEIGHTS + BIASES


def test_buffers_count_and_empty_ones_name_no_dtype() -> None:
    model = nn.BatchNorm1d(5)  # weight, bias, mean and variance, and how many batches were seen
    model.register_buffer("nothing", torch.empty(0, dtype=torch.float64))
    assert weight_bytes(model) == {"fp32": 4 * 4 * 5, "int64": 8}


# The whole size


def test_what_is_stored_is_counted_with_everything_that_is_read_again(tmp_path: Path) -> None:
    folder = stored(tmp_path / "model", 16)
    model = storage.load(folder)
    found = size(model, folder)
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert set(files) == {"recipe.json", "state.safetensors"}
    assert found.stored_bytes == sum(files.values())
    assert found.stored_bytes > 4 * (WEIGHTS + BIASES)
    assert (found.state_bytes, found.weight_bytes) == (state_bytes(model), weight_bytes(model))
    assert found.parameters == WEIGHTS + BIASES


def test_what_no_folder_took_has_no_stored_size() -> None:
    found = size(network(), None)
    assert found.stored_bytes is None
    assert (found.state_bytes, found.parameters) == (state_bytes(network()), WEIGHTS + BIASES)


# Memory, of processes of its own


@pytest.mark.exhaustive
def test_a_process_that_loads_a_large_model_needs_at_least_its_weights_above_one_that_does_not(tmp_path: Path) -> None:
    small, large = stored(tmp_path / "small", 16), stored(tmp_path / "large", 10_000, inputs=1000)
    assert (large / "state.safetensors").stat().st_size > 40_000_000
    needed = {folder: memory_bytes(folder, 1, 1) for folder in (small, large)}
    assert needed[small] >= 0
    assert needed[large] > 30_000_000
    assert needed[large] > needed[small]


def test_a_process_that_cannot_load_the_model_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(
        BenchmarkError, match=r"(?s)benchmark\.memory=true needs a process .* use benchmark\.memory=false"
    ):
        memory_bytes(tmp_path / "nothing", 1, 1)

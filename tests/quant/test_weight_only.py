"""Weights alone in int8 and int4: what is held, what runs, and which layers int4 has kernels for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from quantexp.benchmark.size import parameter_count, weight_bytes
from quantexp.config import Experiment, Mlp, Train, WeightOnly
from quantexp.mission import load
from quantexp.models.mlp import MLP
from quantexp.quant.inspection.promise import Promise
from quantexp.results import Layer, LeftInFloat, Operator
from quantexp.system.errors import ConfigError, QuantizationError
from tests.networks import inspected, loaded_again, made
from tests.runs import quantized

EXAMPLE = torch.linspace(-1.0, 1.0, 128).view(2, 64)
MACS = 64 * 32 + 32 * 16


@pytest.fixture
def network() -> nn.Module:
    """Widths that the kernels of int4 take: 64 inputs, 32 hidden units, 16 classes."""
    torch.manual_seed(0)
    return MLP(64, [32], 16).eval()


def lowered(network: nn.Module, precision: str, group_size: int = 32) -> nn.Module:
    return made(WeightOnly(group_size=group_size), network, precision, EXAMPLE)


def test_int4_weights_take_half_a_byte_and_run_in_kernels_of_their_own(network: nn.Module) -> None:
    evidence = inspected(lowered(network, "int4"), EXAMPLE, promise=Promise("nn.Linear", "int4", "int4"))
    assert evidence.layers == (
        Layer("layers.0", "Linear", "int4", 4, "per_group_affine"),
        Layer("layers.2", "Linear", "int4", 4, "per_channel_affine"),  # its 32 inputs are one group
    )
    assert evidence.operators == (Operator("aten._weight_int4pack_mm_for_cpu", "int4", 2, MACS),)


def test_int8_weights_are_multiplied_as_floats_and_the_evidence_says_so(network: nn.Module) -> None:
    evidence = inspected(lowered(network, "int8"), EXAMPLE, promise=Promise("nn.Linear", "int8"))
    assert {(one.precision, one.qscheme) for one in evidence.layers} == {("int8", "per_channel_symmetric")}
    assert evidence.operators == (Operator("aten.mm", "fp32", 2, MACS),)
    assert evidence.mac_share("int8") == 0.0


def test_bytes_and_parameters_are_those_of_the_packed_weights(network: nn.Module) -> None:
    parameters = 65 * 32 + 33 * 16
    for precision, bits in (("int8", 8), ("int4", 4)):
        model = lowered(network, precision)
        assert parameter_count(model) == parameters
        # A channel has a zero point of a byte in int8; a group of 32 has a scale and a zero point in bf16 in int4.
        channels = 48 if precision == "int8" else 0
        assert weight_bytes(model)[precision] == MACS * bits // 8 + channels
        others = {"int8": ("fp32", 4 * 48 + 4 * 48), "int4": ("bf16", 2 * 48 + 2 * 2 * MACS // 32)}  # with the biases
        dtype, size = others[precision]
        assert weight_bytes(model)[dtype] == size


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_move_by_half_a_step_at_most(network: nn.Module, precision: str) -> None:
    steps = 127 if precision == "int8" else 15 / 2
    largest = max(float(one.weight.detach().abs().max()) for one in (network.layers[0], network.layers[2]))
    with torch.no_grad():
        hidden = [
            model.layers[0](EXAMPLE)
            for model in (network, lowered(network, precision))  # type: ignore[index]
        ]
    # Half a step a weight, over 64 inputs of at most 1; int4 rounds once more, to bf16 and its zero point.
    assert (hidden[0] - hidden[1]).abs().max() <= EXAMPLE.abs().sum(1).max() * largest / steps


def test_layers_that_int4_has_no_kernel_for_stay_in_float_with_the_reason(
    sample: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = sample(
        quant=WeightOnly(), precision="int4", model=Mlp(hidden=[32, 32]), train=Train(epochs=1, threads=1)
    )
    data = load(experiment)
    found = quantized(experiment, data)
    evidence = inspected(found.model, *data.example, promise=found.promise)
    assert evidence.left_in_float == (
        LeftInFloat("layers.0", "its 400 inputs are not a multiple of quant.group_size=32"),
        LeftInFloat("layers.4", "its 10 outputs are not a multiple of 16, as int4 kernels require"),
    )
    assert evidence.mac_share("int4") == 32 * 32 / (400 * 32 + 32 * 32 + 32 * 10)
    again = loaded_again(tmp_path, found.model, experiment, data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.json", "state.safetensors"]
    with torch.no_grad():
        batch = data.test.first(8)
        assert torch.equal(again(*batch), found.model(*batch))


def test_where_int4_takes_no_layer_the_run_ends_with_the_reasons(sample: Callable[..., Experiment]) -> None:
    experiment = sample(quant=WeightOnly(), precision="int4", model=Mlp(hidden=[]), train=Train(epochs=1, threads=1))
    found = quantized(experiment)
    with pytest.raises(QuantizationError, match=r"must have int4 layers, it has fp32; .* layers\.0: its 400 inputs"):
        inspected(found.model, torch.ones(2, 400), promise=found.promise)


def test_a_group_is_of_a_size_that_there_are_kernels_for() -> None:
    with pytest.raises(ConfigError, match=r"^quant\.group_size must be 32, 64 or 128, got 48$"):
        WeightOnly(group_size=48)

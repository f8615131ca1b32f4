"""The flow nncf: a network that OpenVINO executes, whose layers, state and copies are like those of other flows."""

from __future__ import annotations

import copy
from importlib import util
from typing import Any

import pytest
import torch
from torch import nn

from quantexp.config import (
    DataSource,
    Eager,
    Experiment,
    Flow,
    Lenet5,
    Mnist,
    Observer,
    OpenVino,
    Paired,
    Static,
)
from quantexp.mission import run
from quantexp.models.mlp import MLP
from quantexp.quant.flows.ir import IrNetwork
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.runtimes import prepare
from quantexp.state.tensors import fill, flat_state
from quantexp.system.environment import threads
from quantexp.system.errors import ConfigError

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(
        not all(util.find_spec(name) for name in ("nncf", "openvino", "onnx", "onnxscript")),
        reason="needs the extra nncf",
    ),
]
FEATURES, LAYERS = 32, [64, 64]
POINTS = (torch.linspace(-1.0, 3.0, 8 * FEATURES).view(8, FEATURES),)
PIECES = (FEATURES * 64, 64 * 64, 64 * 4)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return MLP(FEATURES, LAYERS, 4).eval()


def quantized(batch: tuple[torch.Tensor, ...] = POINTS, **settings: Any) -> IrNetwork:
    with torch.no_grad():
        made = skeleton(Static(flow=Flow.nncf, **settings), mlp(), Form("int8", batch, OpenVino.target))
    assert isinstance(made, IrNetwork)
    return made


@torch.no_grad()
def test_it_computes_about_the_same_as_float_and_its_weights_times_their_scales_are_those_of_float() -> None:
    network, made = mlp(), quantized()
    torch.testing.assert_close(made(*POINTS), network(*POINTS), rtol=0, atol=0.05)
    held = {layer.name: layer for layer in held_weights(made)}
    assert list(held) == ["layers.0", "layers.2", "layers.4"]
    for name, layer in held.items():
        assert (layer.kind, layer.dtype, layer.qscheme) == ("Linear", torch.int8, "per_channel_symmetric")
        assert layer.scale is not None
        weight = network.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        step = layer.scale.unsqueeze(1)
        assert ((layer.weight * step - weight).abs() <= 0.51 * step).all()


def test_excluded_layers_stay_in_float() -> None:
    held = {layer.name: layer.dtype for layer in held_weights(quantized(exclude=["layers.2"]))}
    assert held == {"layers.0": torch.int8, "layers.2": torch.float32, "layers.4": torch.int8}


@torch.no_grad()
def test_a_stored_state_fills_a_structure_that_was_calibrated_on_other_values() -> None:
    made, other = quantized(), quantized((100 * torch.rand(3, FEATURES),))
    expected = made(*POINTS)
    assert not torch.equal(other(*POINTS), expected)
    state = flat_state(made)
    assert {tensor.dtype for tensor in state.values()} == {torch.uint8}
    fill(other, state)
    assert torch.equal(other(*POINTS), expected)
    assert torch.equal(copy.deepcopy(made)(*POINTS), expected)


def test_the_runtime_executes_its_files_with_every_product_in_int8() -> None:
    made = quantized()
    with threads(1):
        found = prepare(OpenVino(), made, POINTS)
    assert found.exported == made.files
    assert {one.precision for one in found.operators()} == {"int8"}
    assert sum(one.macs for one in found.operators()) == sum(PIECES)
    assert not found.in_float
    assert torch.equal(found.network(*POINTS), made(*POINTS))


class Depthwise(nn.Module):
    """A convolution, one for each channel, whose weights OpenVINO reshapes, and a Linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise, self.output = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.depthwise(self.first(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """An LSTM layer, whose weights OpenVINO reshapes, and a Linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.output = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.lstm(x)[0].mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "shape", "layer"), [(Depthwise, (8, 3, 12, 12), "depthwise"), (Recurrent, (8, 5, 6), "lstm")]
)
def test_a_layer_that_openvino_multiplies_in_float_is_named(
    kind: type[nn.Module], shape: tuple[int, ...], layer: str
) -> None:
    torch.manual_seed(0)
    network, batch = kind().eval(), (torch.rand(shape),)
    with torch.no_grad(), threads(1):
        made = skeleton(Static(flow=Flow.nncf), copy.deepcopy(network), Form("int8", batch, OpenVino.target))
        found = prepare(OpenVino(), made, batch)
    named = {held.name for held in held_weights(made) if held.dtype is torch.float32} | set(found.in_float)
    in_float = any(operator.precision != "int8" for operator in found.operators())  # other CPUs may have a kernel
    assert named == ({layer} if in_float else set())
    assert layer in {held.name for held in held_weights(made)} | set(made.recurrent())  # type: ignore[operator]


def test_only_its_runtime_executes_it_and_what_nncf_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not execute networks of quant.flow=nncf; .*or runtime=openvino"):
        Experiment(quant=Static(flow=Flow.nncf), runtime=Eager())
    with pytest.raises(ConfigError, match=r"quant.observer cannot be chosen in quant.flow=nncf"):
        Static(flow=Flow.nncf, observer=Observer.minmax)


def test_without_a_flow_it_is_not_tried() -> None:
    assert Flow.nncf not in Static().candidates()


def test_a_run_quantizes_stores_and_measures_it() -> None:
    report = run(
        Experiment(
            quant=Static(flow=Flow.nncf),
            runtime=OpenVino(),
            task=Mnist(),
            model=Lenet5(),
            data=DataSource.sample,
            batch_size=[4],
            benchmark=Paired(placements=2, seconds=0.05),
        )
    ).report
    assert report.flow == "nncf" and report.quantized is not None
    assert report.quantized.evidence.mac_share("int8") == 1.0
    assert report.quantized.size.parameters == report.baseline.size.parameters
    assert report.quantized.size.state_bytes < report.baseline.size.state_bytes / 2

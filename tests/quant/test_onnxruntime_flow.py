"""ONNX Runtime's quantizer: what it made of each layer, in the shapes and names of the float network."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.benchmark.size import parameter_count
from quantexp.config import (
    ByLayer,
    DataSource,
    Dynamic,
    Eager,
    Experiment,
    Flow,
    Granularity,
    Mlp,
    Observer,
    OnnxRuntime,
    Paired,
    Scheme,
    Static,
)
from quantexp.mission import run
from quantexp.models.mlp import MLP
from quantexp.quant.inspection.dequantized import weight
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.runtimes import prepare
from quantexp.state.copies import copied
from quantexp.storage import stored
from quantexp.system.environment import threads
from quantexp.system.errors import ConfigError
from quantexp.tasks.inputs import Batch, examples

FLOW = Flow.onnxruntime
STEP = 1 / 127  # of a weight with 7 bits or more, in units of half its range


class Residual(nn.Module):
    """Convolutions whose sum is taken, with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x)).relu()
        logits: Tensor = self.last((y + self.second(y)).mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    """Two layers of an LSTM in both directions, and Linear on each step and on their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(10, 8), nn.LayerNorm(8)
        self.gates = nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True)
        self.square, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.norm(self.square(self.gates(self.tokens(x))[0])).mean(1))
        return logits


def networks() -> dict[str, tuple[nn.Module, Batch]]:
    torch.manual_seed(0)
    return {
        "mlp": (MLP(32, [64, 64], 4).eval(), (torch.randn(16, 32),)),
        "residual": (Residual().eval(), (torch.randn(4, 3, 8, 8),)),
        "recurrent": (Recurrent().eval(), (torch.randint(0, 10, (4, 6)),)),
    }


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def quantized(option: ByLayer, network: nn.Module, batch: Batch) -> nn.Module:
    return skeleton(option, copied(network), Form("int8", batch, OnnxRuntime.target))


@cache
def by_method(name: str, method: str) -> tuple[nn.Module, Batch, nn.Module]:
    """A network, a batch for it, and what a method makes of the network."""
    network, batch = networks()[name]
    return network, batch, quantized(Static(flow=FLOW) if method == "static" else Dynamic(flow=FLOW), network, batch)


INT8 = {
    ("mlp", "static"): {"layers.0", "layers.2", "layers.4"},
    ("mlp", "dynamic"): {"layers.0", "layers.2", "layers.4"},
    ("residual", "static"): {"first", "second", "last"},
    ("residual", "dynamic"): {"last"},
    ("recurrent", "static"): {"square", "last"},
    ("recurrent", "dynamic"): {"gates", "square", "last"},
}


@pytest.mark.parametrize(("name", "method"), INT8, ids=[" ".join(pair) for pair in INT8])
def test_each_layer_keeps_its_name_shape_and_values_up_to_half_a_step(name: str, method: str) -> None:
    network, _, made = by_method(name, method)
    before = {held.name: held for held in held_weights(network)}
    found = {held.name: held for held in held_weights(made)}
    assert {name for name, held in found.items() if held.weight.is_quantized} == INT8[name, method]
    for key, held in found.items():
        values, float_values = weight(held), weight(before[key])
        assert values.shape == float_values.shape
        if key == "first":  # batch normalisation is folded into it
            continue
        error = (values - float_values).abs().max() / float_values.abs().max()
        assert error <= (STEP if held.weight.is_quantized else 1e-6), key


@pytest.mark.parametrize(("name", "method"), INT8, ids=[" ".join(pair) for pair in INT8])
def test_the_runtime_multiplies_these_layers_in_int8_and_all_others_in_float(name: str, method: str) -> None:
    network, batch, made = by_method(name, method)
    prepared = prepare(OnnxRuntime(), made, batch)
    assert not prepared.in_float
    ran = {"fp32": 0, "int8": 0}
    for operator in prepared.operators():
        ran[operator.precision] += operator.macs
    macs = {
        "mlp": {"layers.0": 32 * 64, "layers.2": 64 * 64, "layers.4": 64 * 4},
        "residual": {"first": 64 * 8 * 27, "second": 64 * 8 * 72, "last": 32},
        "recurrent": {"gates": 6 * 2 * 2 * 16 * (8 + 4), "square": 6 * 64, "last": 32},
    }[name]
    expected = sum(count for layer, count in macs.items() if layer in INT8[name, method])
    assert ran == {"int8": expected, "fp32": sum(macs.values()) - expected}
    torch.testing.assert_close(made(*batch), network(*batch).detach(), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("option", "name", "remaining"),
    [
        (Static(flow=FLOW, exclude=["second"]), "residual", {"first", "last"}),
        (Dynamic(flow=FLOW, exclude=["layers.2"]), "mlp", {"layers.0", "layers.4"}),
        (Dynamic(flow=FLOW, include=["square"]), "recurrent", {"square"}),
    ],
    ids=["static", "dynamic Gemm", "dynamic MatMul"],
)
def test_layers_that_the_user_keeps_stay_in_float(option: ByLayer, name: str, remaining: set[str]) -> None:
    network, batch = networks()[name]
    made = quantized(option, network, batch)
    assert {held.name for held in held_weights(made) if held.weight.is_quantized} == remaining


@pytest.mark.slow
def test_the_settings_of_static_reach_the_quantizer() -> None:
    network, batch = networks()["mlp"]

    def first(**settings: Any) -> Any:
        return next(held_weights(quantized(Static(flow=FLOW, **settings), network, batch)))

    assert first().qscheme == "per_channel_affine"
    assert first(weights=Granularity.per_tensor).qscheme == "per_tensor_affine"
    narrow = first(reduce_range=True).weight.int_repr()
    assert narrow.min() >= -64 and narrow.max() <= 64
    wide = first(reduce_range=False).weight.int_repr()
    assert wide.abs().max() == 127
    outputs = [
        quantized(Static(flow=FLOW, **settings), network, batch)(*batch)
        for settings in (
            {"observer": Observer.minmax},
            {"observer": Observer.percentile, "percentile": 90.0},
            {"observer": Observer.minmax, "activations": Scheme.symmetric},
        )
    ]
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_a_network_has_the_parameters_of_its_float_network() -> None:
    network, batch = networks()["mlp"]
    assert parameter_count(quantized(Static(flow=FLOW), network, batch)) == parameter_count(network)


def test_other_runtimes_refuse_it_and_name_the_one_that_does_not() -> None:
    with pytest.raises(
        ConfigError, match=r"runtime=eager does not execute networks of quant.flow=onnxruntime; .*runtime=onnxruntime"
    ):
        Experiment(quant=Static(flow=FLOW), runtime=Eager())


@pytest.mark.slow
@pytest.mark.parametrize("quant", [Static(flow=FLOW), Dynamic(flow=FLOW)], ids=["static", "dynamic"])
def test_a_run_proves_measures_and_stores_it(quant: ByLayer, tmp_path: Path) -> None:
    result = run(
        Experiment(
            quant=quant,
            model=Mlp(hidden=[32, 32]),
            data=DataSource.sample,
            batch_size=[4],
            benchmark=Paired(placements=2, seconds=0.05),
            runtime=OnnxRuntime(),
        )
    )
    report = result.report
    assert report.flow == "onnxruntime" and report.quantized is not None
    assert report.quantized.evidence.mac_share("int8") == 1.0
    stored.save(tmp_path / "model", result.model, result.recipe)
    loaded, batch = stored.load(tmp_path / "model").network, examples(result.recipe.inputs, 3)
    torch.testing.assert_close(loaded(*batch), result.model(*batch), rtol=0, atol=0)

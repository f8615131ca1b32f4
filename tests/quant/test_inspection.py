from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic

from quantexp.config import Engine
from quantexp.errors import QuantizationError
from quantexp.models.mlp import MLP
from quantexp.quant.base import Promise, Quantized
from quantexp.quant.casting import Autocast, Cast
from quantexp.quant.engine import supported_engines
from quantexp.quant.flows.torch_ao import torch_ao
from quantexp.quant.inspection import inspect, parameter_count
from quantexp.report.results import Evidence, Layer, Operator

ENGINE = Engine(next(name for name in supported_engines() if name != "qnnpack"))
EXAMPLE = torch.linspace(-1.0, 1.0, 8).view(2, 4)


@pytest.fixture
def network() -> nn.Module:
    """Four inputs, hidden layers of three and five, two classes."""
    return MLP(4, [3, 5], 2).eval()


def dynamically(model: nn.Module, *names: str) -> nn.Module:
    """Return a copy with the named layers dynamically quantized to int8."""
    with torch_ao(ENGINE):
        quantized: nn.Module = quantize_dynamic(copy.deepcopy(model), dict.fromkeys(names, default_dynamic_qconfig))
    return quantized


# Promises


def test_a_promise_of_layers_that_is_not_kept_says_what_was_promised_found_and_handled(network: nn.Module) -> None:
    with pytest.raises(QuantizationError) as failure:
        inspect(Quantized(network, Promise("nn.Linear and nothing else", layers="int8")), EXAMPLE)
    assert str(failure.value) == (
        "the method must leave int8 layers, it left fp32; "
        "it handles nn.Linear and nothing else: choose a model that has them"
    )


def test_a_promise_of_operators_that_is_not_kept_says_what_was_promised_ran_and_is_handled(network: nn.Module) -> None:
    with pytest.raises(QuantizationError) as failure:
        inspect(Quantized(network, Promise("what autocast lowers", operators="bf16")), EXAMPLE)
    assert str(failure.value) == (
        "the model must run bf16 operators, it ran fp32; "
        "the method handles what autocast lowers: choose a model that has them"
    )


def test_a_model_without_layers_keeps_no_promise() -> None:
    promise = Promise("nn.Linear", layers="int8")
    with pytest.raises(QuantizationError, match="must leave int8 layers, it left none"):
        inspect(Quantized(nn.ReLU(), promise), EXAMPLE)
    with pytest.raises(QuantizationError, match="must run int8 operators, it ran none"):
        inspect(Quantized(nn.ReLU(), Promise("nn.Linear", operators="int8")), EXAMPLE)


def test_weights_in_another_precision_do_not_keep_a_promise(network: nn.Module) -> None:
    with pytest.raises(QuantizationError, match="must leave fp16 layers, it left bf16"):
        inspect(Quantized(Cast(network, torch.bfloat16), Promise("all", layers="fp16")), EXAMPLE)


def test_layers_that_are_quantized_but_never_run_do_not_keep_a_promise_of_operators(network: nn.Module) -> None:
    class Bypassed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = dynamically(network, "layers.0", "layers.2", "layers.4")
            self.used = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.used(x)
            return logits

    with pytest.raises(QuantizationError, match="must run int8 operators, it ran fp32"):
        inspect(Quantized(Bypassed(), Promise("nn.Linear", "int8", "int8")), EXAMPLE)


def test_without_a_promise_the_float_model_passes(network: nn.Module) -> None:
    evidence = inspect(Quantized(network, None), EXAMPLE)
    assert [layer.precision for layer in evidence.layers] == ["fp32"] * 3
    assert evidence.left_in_float == ()


# Evidence


def test_the_float_network_shows_its_layers_and_the_operators_that_multiply(network: nn.Module) -> None:
    assert inspect(Quantized(network, None), EXAMPLE) == Evidence(
        layers=tuple(Layer(f"layers.{index}", "Linear", "fp32") for index in (0, 2, 4)),
        operators=(Operator("aten.addmm", "fp32", 3),),
        left_in_float=(),
    )


def test_autocast_shows_float32_layers_and_operators_in_less(network: nn.Module) -> None:
    evidence = inspect(Quantized(Autocast(network, torch.bfloat16), Promise("some", operators="bf16")), EXAMPLE)
    assert {layer.precision for layer in evidence.layers} == {"fp32"}
    assert evidence.operators == (Operator("aten.addmm", "bf16", 3),)
    assert evidence.left_in_float == (), "of layers nothing was promised"


def test_layers_that_were_left_in_float_are_listed(network: nn.Module) -> None:
    part = dynamically(network, "layers.2")
    evidence = inspect(Quantized(part, Promise("nn.Linear", "int8", "int8")), EXAMPLE)
    assert {layer.name: layer.precision for layer in evidence.layers} == {
        "layers.0": "fp32",
        "layers.2": "int8",
        "layers.4": "fp32",
    }
    assert evidence.left_in_float == ("layers.0", "layers.4")
    calls = {operator.precision: operator.calls for operator in evidence.operators}
    assert calls == {"fp32": 2, "int8": 1}


def test_convolutions_are_layers_and_operators_too() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).eval()
    evidence = inspect(Quantized(model, None), torch.zeros(2, 1, 4, 4))
    assert [(layer.name, layer.kind) for layer in evidence.layers] == [("0", "Conv2d"), ("2", "Linear")]
    assert sum(operator.calls for operator in evidence.operators) == 2
    assert {operator.precision for operator in evidence.operators} == {"fp32"}


def test_looking_at_a_model_does_not_change_it(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    inspect(Quantized(network, None), EXAMPLE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


# Parameters


def test_parameters_are_counted_whether_they_are_packed_or_not(network: nn.Module) -> None:
    expected = (4 + 1) * 3 + (3 + 1) * 5 + (5 + 1) * 2  # 47
    assert parameter_count(network) == expected
    assert parameter_count(dynamically(network, "layers.2")) == expected
    assert parameter_count(dynamically(network, "layers.0", "layers.2", "layers.4")) == expected
    assert parameter_count(Cast(copy.deepcopy(network), torch.bfloat16)) == expected

"""What is stored must be what was measured."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import default_dynamic_qconfig, float16_dynamic_qconfig, quantize_dynamic

from quantexp.checks.stored import check_stored
from quantexp.config import Dynamic, Static
from quantexp.config.levers import Flow
from quantexp.quant.flows.working import working
from quantexp.state import attributes
from quantexp.state.tensors import fill, flat_state
from quantexp.system.errors import CheckError
from tests.networks import made

POINTS = torch.linspace(-2.0, 2.0, 8 * 12).view(8, 12)


class Knows(nn.Module):
    """A network with a number and a tensor that are plain attributes, and with an expanded buffer."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.factor = 1.0
        self.shift = torch.zeros(3)
        self.register_buffer("offset", torch.zeros(1).expand(3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x) * self.factor + self.shift + self.offset
        return result


def activated(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), activation, nn.Linear(16, 3)).eval()


def rebuilt(network: nn.Module, twin: nn.Module) -> nn.Module:
    """Return `twin`, a network of the same structure, with everything that is stored of `network`."""
    fill(twin, flat_state(network))
    attributes.restore_numbers(twin, attributes.numbers(network))
    return twin


ACTIVATIONS = (nn.ELU(), nn.LeakyReLU(0.2), nn.Hardswish(), nn.Sigmoid(), nn.Tanh(), nn.ReLU6(), nn.Hardtanh())


@pytest.mark.parametrize(
    ("flow", "activation"),
    [*((flow, activation) for flow in (Flow.fx, Flow.eager) for activation in ACTIVATIONS), (Flow.eager, nn.PReLU())],
    ids=lambda value: str(value).partition("(")[0],
)
def test_a_rebuilt_network_computes_the_same_whatever_activation_it_has(flow: Flow, activation: nn.Module) -> None:
    option = Static(flow=flow)
    network = activated(activation)
    quantized = made(option, network, "int8", POINTS)
    other = made(option, network, "int8", POINTS * 0.1)  # other scales everywhere
    assert not torch.equal(quantized(POINTS), other(POINTS))
    check_stored(quantized, rebuilt(quantized, other), [(POINTS,)], 0.0, 1)
    assert torch.equal(quantized(POINTS), other(POINTS))


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize(
    "layer",
    [nn.LSTM(12, 5, 2, batch_first=True, bidirectional=True), nn.GRU(12, 5), nn.LSTMCell(12, 5), nn.GRUCell(12, 5)],
    ids=["LSTM", "GRU", "LSTMCell", "GRUCell"],
)
def test_the_packed_weights_of_recurrent_layers_are_stored_as_plain_tensors(layer: nn.Module, precision: str) -> None:
    kind, dtype = type(layer), torch.qint8 if precision == "int8" else torch.float16
    qconfig = default_dynamic_qconfig if precision == "int8" else float16_dynamic_qconfig
    with working(Dynamic().engine):
        quantized, twin = (
            quantize_dynamic(nn.Sequential(network), {kind: qconfig}, dtype=dtype)
            for network in (layer, copy.deepcopy(layer).apply(halve))
        )
        inputs = POINTS if "Cell" in kind.__name__ else POINTS.view(2, 4, 12)
        before = quantized(inputs)[0]
        assert not torch.equal(before, twin(inputs)[0])
        assert all(isinstance(value, Tensor) for value in flat_state(quantized).values())
        assert torch.equal(before, rebuilt(quantized, twin)(inputs)[0])


@torch.no_grad()
def halve(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.mul_(0.5)


def test_numbers_and_tensors_that_are_plain_attributes_are_stored() -> None:
    network, twin = Knows().eval(), Knows().eval()
    network.factor, network.shift = math.pi, torch.tensor([1.0, 2.0, 3.0])
    check_stored(network, rebuilt(network, twin), [(POINTS,)], 0.0, 1)
    assert twin.factor == math.pi


def test_an_attribute_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a number, got 'os'"):
        attributes.restore_numbers(Knows(), {"": {"factor": "os"}})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="forward of the network is no number"):
        attributes.restore_numbers(Knows(), {"": {"forward": 1.0}})


def test_a_stored_scale_that_changed_is_an_error() -> None:
    quantized = made(Static(), activated(nn.ReLU()), "int8", POINTS)
    changed = copy.deepcopy(quantized)
    state = changed.state_dict()
    name = next(name for name in state if name.endswith("scale") and state[name].numel() == 1)
    state[name] = state[name] * 1.01
    changed.load_state_dict(state)
    with pytest.raises(CheckError, match="stored and read back must give equal outputs") as told:
        check_stored(quantized, changed, [(POINTS,)], 0.0, 1)
    assert told.value.check == "stored"


def test_a_random_network_may_differ_by_as_much_as_from_itself() -> None:
    network = Knows().eval()
    other = copy.deepcopy(network)
    other.shift = torch.tensor(0.125)
    check_stored(network, other, [(POINTS,)], 0.125, 1)
    with pytest.raises(CheckError):
        check_stored(network, other, [(POINTS,)], 0.01, 1)

"""Layers are found by what they are: modules, recurrent and attention layers, functions with parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import default_dynamic_qconfig, float16_dynamic_qconfig, quantize_dynamic
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, spectral_norm

from quantexp.benchmark.size import parameter_count, weight_bytes
from quantexp.config import Dynamic, FakeQuant, Flow, Granularity, Qat, Static
from quantexp.models.lenet5 import LeNet5
from quantexp.models.mlp import MLP
from quantexp.quant.inspection.layers import held_weights, layer_of
from quantexp.quant.methods.rounded_layers import round_weight
from quantexp.quant.selection import COMPUTED, kept_in_float
from quantexp.state.copies import copied
from quantexp.system.errors import QuantizationError
from tests.networks import inspected, made

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_:UserWarning")


def found(network: nn.Module) -> dict[str, str]:
    """Return the kinds of the layers by name."""
    return {held.name: held.kind for held in held_weights(network)}


def precisions(network: nn.Module, inputs: Tensor) -> dict[str, str]:
    return {layer.name: layer.precision for layer in inspected(network, inputs).layers}


class Misleading(nn.Module):
    """Attributes called weight and bias that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.block = nn.Module()
        self.block.weight, self.block.bias = nn.Linear(4, 4), nn.Linear(4, 4)
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(4))
        self.empty = nn.Sequential()
        self.kept = nn.Module()
        self.kept.register_buffer("weight", torch.ones(4, 4))
        self.factor = nn.Parameter(torch.ones(1))

    def weight(self, needed: int) -> None:
        raise AssertionError("it is a method of the user")

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block.bias(self.block.weight(self.empty(self.first(x)))) / self.factor
        return result


def test_methods_children_and_buffers_called_weight_are_no_weights() -> None:
    network = Misleading().eval()
    assert found(network) == dict.fromkeys(["first", "block.weight", "block.bias"], "Linear")
    quantized = made(Dynamic(), network, "int8", torch.ones(2, 4))
    assert precisions(quantized, torch.ones(2, 4)) == dict.fromkeys(["first", "block.weight", "block.bias"], "int8")
    assert parameter_count(quantized) == parameter_count(network) == 3 * 20 + 1


def test_the_layers_of_mlp_and_lenet5_are_their_modules() -> None:
    for network in (MLP(4, [3, 5], 2), LeNet5((1, 32, 32), 10)):
        modules = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        assert list(found(network)) == modules


# Weights that are computed before each call


def test_a_parametrized_layer_is_one_layer_whose_parameters_count_once() -> None:
    layer = parametrizations.weight_norm(nn.Linear(400, 32))
    network = nn.Sequential(layer, nn.ReLU(), nn.Linear(32, 10)).eval()
    assert found(network) == {"0": "Linear", "2": "Linear"}
    assert parameter_count(network) == 32 * 400 + 32 + 32 + 10 * 32 + 10  # directions, lengths and biases
    assert weight_bytes(network) == {"fp32": 4 * parameter_count(network)}
    held = next(held_weights(network))
    torch.testing.assert_close(held.weight, layer.weight.detach())


HOOKS = [lambda layer: prune.l1_unstructured(layer, "weight", 0.5), spectral_norm, parametrizations.weight_norm]


@pytest.mark.parametrize("hook", HOOKS, ids=["prune", "spectral_norm", "weight_norm"])
@pytest.mark.parametrize("option", [Dynamic(), *(Static(flow=flow) for flow in Static.portable_flows())])
def test_computed_weights_are_quantized_as_they_are_used(hook: object, option: Dynamic) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(hook(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 4))  # type: ignore[operator]
    inputs = torch.randn(64, 8)
    network(inputs)  # with gradients, as in training
    network.eval()
    expected = network(inputs).detach()
    quantized = made(option, network, "int8", inputs)
    assert set(precisions(quantized, inputs).values()) == {"int8"}
    with torch.no_grad():
        noise = quantized(inputs) - expected
    assert noise.square().mean() < 0.01 * expected.square().mean()
    assert torch.equal(network(inputs), expected), "the float network still computes its weights"


@pytest.mark.parametrize("hook", HOOKS, ids=["prune", "spectral_norm", "weight_norm"])
@pytest.mark.parametrize("bits", [2, 3])
def test_computed_weights_are_rounded_to_as_many_bits_as_the_evidence_says(hook: object, bits: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(hook(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 4)).eval()  # type: ignore[operator]
    network(torch.ones(2, 8))
    simulated = made(FakeQuant(weight_bits=bits), network, "simulated", torch.ones(2, 8))
    weight = network[0].weight.detach()
    simulated(torch.ones(2, 8))
    assert torch.equal(simulated[0].layer.weight, round_weight(weight, bits, Granularity.per_channel))
    assert {layer.bits for layer in inspected(simulated, torch.ones(2, 8)).layers} == {bits}


def halved(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
    layer.weight = layer.raw * 0.5


def test_a_layer_whose_weight_a_hook_of_the_user_computes_stays_in_float() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    raw = network[0].weight
    del network[0].weight
    network[0].raw = raw
    network[0].register_forward_pre_hook(halved)
    network(torch.ones(2, 4))
    assert found(network) == {"0": "Linear", "1": "Linear"}
    for option in (Dynamic(), FakeQuant()):
        assert kept_in_float(option, network) == {"0": COMPUTED}
        quantized = made(option, network, "int8", torch.ones(2, 4))
        assert precisions(quantized, torch.ones(2, 4))["0"] == "fp32"


# Tied, shared and derived layers


class Tied(nn.Module):
    """Three calls of two layers, which have one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.second.weight, self.again = self.first.weight, self.second

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.again(torch.relu(self.second(torch.relu(self.first(x)))))
        return result


def test_a_shared_weight_and_a_shared_layer_count_once() -> None:
    network, inputs = Tied().eval(), torch.rand(16, 8)
    assert list(found(network)) == ["first", "second"]
    assert parameter_count(network) == 64 + 8
    simulated = made(FakeQuant(weight_bits=3), network, "simulated", inputs)
    assert parameter_count(simulated) == 64 + 8
    assert precisions(simulated, inputs) == {"first": "simulated", "second": "simulated"}
    assert simulated.again is simulated.second


def test_a_shared_layer_is_quantized_under_all_its_names() -> None:
    network, inputs = Tied().eval(), torch.rand(16, 8)
    for flow in (Flow.eager, Flow.fx):
        quantized = made(Dynamic(flow=flow), network, "int8", inputs)
        assert precisions(quantized, inputs) == {"first": "int8", "second": "int8"}
        (operator,) = inspected(quantized, inputs).operators
        assert (operator.name, operator.calls) == ("quantized.linear_dynamic", 3)


def test_a_layer_in_float_keeps_its_weight_when_a_layer_that_shares_it_is_rounded() -> None:
    network, inputs = Tied().eval(), torch.rand(16, 8)
    before = network.first.weight.detach().clone()
    simulated = made(FakeQuant(weight_bits=2, exclude=["first"]), network, "simulated", inputs)
    assert torch.equal(simulated.first.weight, before)
    assert len(simulated.second.layer.weight[0].unique()) <= 4


class OwnLinear(nn.Linear):
    """Computes as its base class."""


class Doubled(nn.Linear):
    """Computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_a_subclass_is_simulated_only_if_it_computes_as_its_base() -> None:
    network = nn.Sequential(OwnLinear(4, 4), Doubled(4, 4)).eval()
    assert found(network) == {"0": "OwnLinear", "1": "Doubled"}
    simulated = made(FakeQuant(), network, "simulated", torch.ones(2, 4))
    assert precisions(simulated, torch.ones(2, 4)) == {"0": "simulated", "1": "fp32"}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_a_scripted_layer_is_one_layer() -> None:
    network = nn.Sequential(torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 4)).eval()
    assert found(network) == {"0": "scripted Linear", "1": "Linear"}
    quantized = made(Dynamic(), network, "int8", torch.ones(2, 4))
    assert precisions(quantized, torch.ones(2, 4)) == {"0": "fp32", "1": "int8"}


# Functions


class Functions(nn.Module):
    """A parameter of its own, a parameter of a child, and the weight of a child that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 4))
        self.child = nn.Module()
        self.child.second = nn.Parameter(torch.randn(8, 8))
        self.read = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(functional.linear(x, self.first))
        hidden = functional.linear(hidden, self.child.second)
        return functional.linear(hidden, self.read.weight, self.read.bias)


NAMES = ["first", "child.second", "read"]
FUNCTIONS = 4 * 8 + 8 * 8 + 8 * 2 + 2


def test_parameters_that_functions_take_are_layers_named_as_they_are() -> None:
    network = Functions()
    assert found(network) == {"first": "Parameter", "child.second": "Parameter", "read": "Linear"}
    assert [layer_of(network, path) for path in ("first", "child.second", "read.weight")] == NAMES
    assert parameter_count(network) == FUNCTIONS


@pytest.mark.parametrize("option", [Static(flow=Flow.fx), Qat(flow=Flow.fx)], ids=["static", "qat"])
def test_functions_that_fx_quantizes_are_int8_layers_and_count_once(option: Static) -> None:
    torch.manual_seed(0)
    network, inputs = Functions().eval(), torch.randn(16, 4)
    quantized = copied(made(option, network, "int8", inputs))
    assert precisions(quantized, inputs) == dict.fromkeys(NAMES, "int8")
    assert parameter_count(quantized) == FUNCTIONS
    assert weight_bytes(quantized)["int8"] == FUNCTIONS - 2  # but for the bias


def test_functions_are_not_simulated_because_their_inputs_cannot_be_rounded() -> None:
    network = nn.Sequential(Functions(), nn.Linear(2, 2)).eval()
    simulated = made(FakeQuant(), network, "simulated", torch.ones(2, 4))
    assert precisions(simulated, torch.ones(2, 4)) == {
        **dict.fromkeys(["0.first", "0.child.second", "0.read"], "fp32"),
        "1": "simulated",
    }


# Recurrent layers and attention


def test_a_recurrent_layer_is_one_layer_with_all_its_weights() -> None:
    (held,) = held_weights(nn.LSTM(4, 8, num_layers=2, bidirectional=True))
    assert (held.kind, len(held.weights), len(held.biases)) == ("LSTM", 8, 8)
    assert sum(tensor.numel() for tensor in (*held.weights, *held.biases)) == parameter_count(held.module)


RECURRENT = [nn.LSTM(4, 8, num_layers=2, bidirectional=True), nn.GRU(4, 8), nn.LSTMCell(4, 8), nn.GRUCell(4, 8)]


@pytest.mark.parametrize("layer", [*RECURRENT, nn.RNNCell(4, 8)], ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize(
    ("qconfig", "dtype", "width"),
    [(default_dynamic_qconfig, torch.qint8, 1), (float16_dynamic_qconfig, torch.float16, 2)],
    ids=["int8", "fp16"],
)
def test_the_parameters_of_a_packed_recurrent_layer_count_as_in_float(
    layer: nn.Module, qconfig: object, dtype: torch.dtype, width: int
) -> None:
    network = nn.Sequential(layer)
    quantized = quantize_dynamic(network, {type(layer): qconfig}, dtype=dtype)  # type: ignore[no-untyped-call]
    (before,), (after,) = held_weights(network), held_weights(quantized)
    assert (after.name, after.kind, after.dtype) == ("0", type(layer).__name__, dtype)
    assert parameter_count(quantized) == parameter_count(network)
    weights = width * sum(tensor.numel() for tensor in before.weights)
    biases = 4 * sum(tensor.numel() for tensor in before.biases)
    assert weight_bytes(quantized) == {"int8" if width == 1 else "fp16": weights, "fp32": biases}


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()


def test_the_projections_of_attention_are_layers() -> None:
    network = encoder()
    assert list(found(network)) == [
        f"layers.0.{name}" for name in ("self_attn", "self_attn.out_proj", "linear1", "linear2", "norm1", "norm2")
    ]
    assert layer_of(network, "layers.0.self_attn.in_proj_weight") == "layers.0.self_attn"


def test_the_layers_of_a_transformer_are_really_simulated() -> None:
    torch.manual_seed(0)
    network, inputs = encoder(), torch.randn(4, 3, 8)
    simulated = made(FakeQuant(weight_bits=8, activation_bits=2), network, "simulated", inputs)
    assert precisions(simulated, inputs)["layers.0.linear1"] == "simulated"
    assert precisions(simulated, inputs)["layers.0.self_attn.out_proj"] == "fp32"
    with torch.no_grad():
        noise = simulated(inputs) - network(inputs)
    assert noise.square().mean() > 0.01, "the few levels of the inputs of a layer show, so the fused kernel did not run"


def test_layers_of_all_kinds_are_excluded_by_name() -> None:
    network = nn.Sequential(nn.LSTM(8, 8), Functions(), encoder())
    patterns = ["0", "1.first", "*.self_attn"]
    kept = kept_in_float(Dynamic(exclude=patterns), network)
    assert list(kept) == ["0", "1.first", "2.layers.0.self_attn"]
    with pytest.raises(
        QuantizationError, match=r"'1\.second' matches none; the layers are 0, 1\.first, 1\.child\.second"
    ):
        kept_in_float(Dynamic(exclude=["1.second"]), network)

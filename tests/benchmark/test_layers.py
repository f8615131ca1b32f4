"""What each layer loses: by hand where a few numbers tell, and against the network's own outputs elsewhere."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from quantexp.benchmark.layers import layer_losses
from quantexp.config import Dynamic, FakeQuant, Flow, Observer, Qat, Quant, Static
from quantexp.models.lenet5 import LeNet5
from quantexp.models.mlp import MLP
from quantexp.quant.methods.casting import Autocast, Cast
from quantexp.quant.methods.fake_quant import FakeQuantized
from quantexp.results import LayerLoss
from quantexp.statistics.sqnr import sqnr_db
from quantexp.tasks.data import Tensors
from tests.networks import inspected, made

FLOWS = pytest.mark.parametrize("flow", Static.flows)


def losses(network: nn.Module, quantized: nn.Module, inputs: Tensor) -> dict[str, LayerLoss]:
    """What the layers lose on these inputs, by name, in the order of the network."""
    layers = inspected(quantized, inputs[:2]).layers
    found = layer_losses(network, quantized, layers, Tensors(None, (inputs,)))
    return {one.name: one for one in found}


def rounded(network: nn.Module, bits: int, low: float = 0.0, high: float = 255.0) -> nn.Module:
    """The network with weights of so many bits; its inputs are rounded to 256 values between the ends."""
    width = next(module.in_features for module in network.modules() if isinstance(module, nn.Linear))
    model = made(FakeQuant(weight_bits=bits, activation_bits=8), network, "simulated", torch.ones(2, width))
    for module in model.modules():
        if isinstance(module, FakeQuantized):
            module.cover(low, high)
    return model


def linear(*rows: tuple[float, ...]) -> nn.Linear:
    """A layer without bias that has this weight."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight = nn.Parameter(torch.tensor(rows))
    return layer


# By hand


def test_a_weight_that_lies_on_the_grid_loses_nothing() -> None:
    network = nn.Sequential(linear((3.0, -2.0), (1.0, 0.0), (-0.75, 0.5)))  # of 3 bits: -3 to 3 thirds of the largest
    one = losses(network, rounded(network, 3), torch.tensor([[1.0, 2.0], [7.0, 0.0]]))["0"]
    assert (one.weight_mean_error, one.weight_max_error, one.weight_sqnr_db) == (0.0, 0.0, None)
    assert (one.weight_low, one.weight_high) == (-2.0, 3.0)
    assert (one.input_sqnr_db, one.output_sqnr_db) == (None, None)  # whole numbers are on the grid of the inputs


def test_errors_and_sqnr_are_those_that_are_computed_by_hand() -> None:
    network = nn.Sequential(linear((1.0, 0.25), (0.5, -2.0)))
    one = losses(network, rounded(network, 2), torch.ones(1, 2))["0"]  # of 2 bits: 1, 0 and 0, -2 are left
    assert one.weight_mean_error == (0.25 + 0.5) / 4
    assert one.weight_max_error == 0.5
    assert one.weight_sqnr_db == pytest.approx(10 * math.log10((1 + 1 / 16 + 1 / 4 + 4) / (1 / 16 + 1 / 4)))
    # 1.25 and -1.5 become 1 and -2
    assert one.output_sqnr_db == pytest.approx(10 * math.log10((1.25**2 + 1.5**2) / (0.25**2 + 0.5**2)))
    assert one.precision == "simulated"


def test_inputs_are_clipped_that_lie_more_than_half_a_step_beyond_the_grid() -> None:
    network = nn.Sequential(linear((1.0, 1.0)))
    inputs = torch.tensor([[-0.4, 255.4], [-0.6, 255.6], [1.0, 9.0], [2.0, 700.0]])
    one = losses(network, rounded(network, 8), inputs)["0"]
    assert one.clipped == 3 / 8
    assert (one.grid_low, one.grid_high) == (0.0, 255.0)
    assert (one.input_low, one.input_high) == pytest.approx((-0.6, 700.0))


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.layer = linear((factor,))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(torch.relu(self.layer(x)))
        return result


def test_a_layer_that_runs_twice_is_seen_twice() -> None:
    network = Twice(200.0)
    one = losses(network, rounded(network, 8), torch.tensor([[1.0], [2.0]]))["layer"]
    assert one.clipped == 1 / 4  # of 1, 2, 200 and 400
    assert one.input_high == 400.0


def test_the_grid_of_a_layer_that_runs_twice_is_that_of_both_calls() -> None:
    inputs = torch.tensor([[2.0], [4.0]])
    option = Static(flow=Flow.pt2e, observer=Observer.minmax)
    one = losses(Twice(0.5), made(option, Twice(0.5).eval(), "int8", inputs), inputs)["layer"]
    assert (one.input_low, one.input_high) == (1.0, 4.0)
    assert (one.grid_low, one.grid_high) == pytest.approx((0.0, 4.0), rel=0.01), "not that of 1 and 2, the second call"


def test_bf16_keeps_eight_bits_of_a_weight() -> None:
    network = nn.Sequential(linear((1 + 2**-9, -1.0)))
    one = losses(network, Cast(copy.deepcopy(network), torch.bfloat16), torch.ones(1, 2))["0"]
    assert (one.weight_max_error, one.weight_mean_error) == (2**-9, 2**-10)
    assert (one.precision, one.grid_low, one.clipped) == ("bf16", None, None)


def test_the_examples_are_spread_over_the_split() -> None:
    network = nn.Sequential(linear((1.0,)))
    one = losses(network, rounded(network, 8, 0.0, 510.0), torch.arange(1024.0)[:, None])["0"]
    assert (one.input_low, one.input_high) == (0.0, 1022.0)  # every second one
    assert one.clipped == 256 / 512  # 512 and all behind it


def test_float_layers_alone_lose_nothing_that_quantization_could_answer_for() -> None:
    network = MLP(4, [3], 2).eval()
    assert losses(network, Autocast(MLP(4, [3], 2).eval(), torch.bfloat16), torch.ones(2, 4)) == {}


# In every flow


INPUTS = torch.cat([torch.linspace(0.0, 1.0, 251), torch.full((5,), 3.0)])[torch.randperm(256)].view(64, 4)


@FLOWS
def test_what_calibration_did_not_see_is_clipped(flow: Flow) -> None:
    torch.manual_seed(0)
    network = MLP(4, [8], 2).eval()
    option = Static(flow=flow, observer=Observer.minmax, reduce_range=False)
    found = losses(network, made(option, network, "int8", torch.rand(500, 4)), INPUTS)
    first = found["layers.0"]
    assert first.clipped == 5 / 256
    assert first.input_high == 3.0
    assert (first.grid_low, first.grid_high) == pytest.approx((0.0, 1.0), abs=0.01)


@FLOWS
@pytest.mark.parametrize("method", [Static, Qat])
def test_lenet_tells_its_convolutions_and_its_linear_layers(flow: Flow, method: type[Static] | type[Qat]) -> None:
    torch.manual_seed(0)
    network, inputs = LeNet5((1, 32, 32), 10).eval(), torch.rand(70, 1, 32, 32)  # a batch of 64 and the rest
    quantized = made(method(flow=flow), network, "int8", inputs)
    found = losses(network, quantized, inputs)
    assert list(found) == ["features.0", "features.3", "classifier.0", "classifier.2", "classifier.4"]
    with torch.no_grad():
        assert found["classifier.4"].output_sqnr_db == pytest.approx(sqnr_db(network(inputs), quantized(inputs)))
    for name, one in found.items():
        largest = float(network.get_submodule(name).weight.detach().abs().max())  # type: ignore[operator, union-attr]
        assert one.weight_max_error is not None
        assert one.weight_max_error <= largest / 127 / 2 * 1.01  # half a step
        assert one.input_low is not None and one.grid_low is not None and one.grid_low <= 0.0
        assert one.output_sqnr_db is not None and one.output_sqnr_db > 25  # what ReLU cuts off would be all noise


def test_layers_go_by_the_names_of_the_network_even_by_one_that_quantexp_uses() -> None:
    block = nn.Sequential(nn.Linear(4, 8))
    block.add_module("layer", nn.Linear(8, 2))
    network = nn.Sequential()
    network.add_module("layer", block)
    for option in (*(Static(flow=flow) for flow in Static.flows), FakeQuant()):
        quantized = made(option, network.eval(), "int8", torch.rand(8, 4))
        assert list(losses(network, quantized, torch.rand(8, 4))) == ["layer.0", "layer.layer"]


def test_a_static_network_with_dynamic_layers_has_a_grid_where_ranges_are_fixed() -> None:
    network, inputs = MLP(4, [8, 8], 2).eval(), torch.rand(32, 4)
    quantized = made(Static(dynamic=["layers.2"]), network, "int8", inputs)
    assert [one.clipped is None for one in losses(network, quantized, inputs).values()] == [False, True, False]


@FLOWS
def test_a_layer_in_float_is_told_with_what_reaches_it(flow: Flow) -> None:
    torch.manual_seed(0)
    network, inputs = LeNet5((1, 32, 32), 10).eval(), torch.rand(32, 1, 32, 32)
    option = Static(flow=flow, exclude=["classifier.0"])
    found = losses(network, made(option, network, "int8", inputs), inputs)
    kept = found["classifier.0"]
    assert (kept.precision, kept.weight_mean_error, kept.weight_max_error, kept.weight_sqnr_db) == ("fp32", *[None] * 3)
    assert (kept.grid_low, kept.grid_high, kept.clipped) == (None, None, None)
    assert kept.input_sqnr_db is not None and kept.input_sqnr_db > 25
    assert kept.output_sqnr_db is not None and kept.output_sqnr_db > 25


def test_layers_in_float_ahead_of_all_others_lose_nothing() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)).eval()
    quantized = made(Dynamic(exclude=["0"]), network, "int8", torch.rand(2, 4))
    first, last = losses(network, quantized, torch.randn(32, 4)).values()
    assert (first.input_sqnr_db, first.output_sqnr_db, last.input_sqnr_db) == (None, None, None)
    assert last.output_sqnr_db is not None


def test_outputs_are_those_of_the_layer_whatever_the_network_does_to_them_in_place() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)).eval()
    inputs = torch.randn(64, 4)
    quantized = made(Static(flow=Flow.pt2e, exclude=["2"]), network, "int8", inputs)  # a graph is pure
    kept = losses(network, quantized, inputs)["2"]
    assert kept.output_sqnr_db is not None and kept.output_sqnr_db > 25


class Residual(nn.Module):
    """A layer whose output is added to its input, which lowering makes one operator of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.added, self.last = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        result: Tensor = self.last(hidden + self.added(torch.relu(hidden)))
        return result


@pytest.mark.parametrize("flow", [Flow.fx, Flow.pt2e])
def test_an_addition_that_is_fused_into_a_layer_is_not_taken_for_its_output(flow: Flow) -> None:
    torch.manual_seed(0)
    network, inputs = Residual().eval(), torch.randn(64, 4)
    found = losses(network, made(Static(flow=flow), network, "int8", inputs), inputs)
    assert list(found) == ["first", "added", "last"]
    assert found["first"].output_sqnr_db is not None and found["first"].output_sqnr_db > 25
    assert (found["added"].output_sqnr_db is None) == (flow is Flow.pt2e)
    assert found["last"].output_sqnr_db is not None and found["last"].output_sqnr_db > 25


class Normed(nn.Module):
    """A convolution and a linear layer, each with batch normalisation behind it, and ReLU called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.head = nn.Linear(4 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.relu(self.norm(self.convolution(x.view(-1, 1, 8, 8))))
        result: Tensor = self.head(torch.flatten(maps, 1))
        return result


@pytest.mark.parametrize(
    "quant",
    [*(Static(flow=flow) for flow in Static.flows), Static(flow=Flow.fx, exclude=["convolution"]), Dynamic()],
    ids=["fx", "eager", "pt2e", "excluded", "dynamic"],
)
def test_batch_normalisation_counts_to_the_layer_it_is_folded_into(quant: Quant) -> None:
    torch.manual_seed(0)
    network, inputs = Normed(), torch.randn(64, 64)
    network.norm.weight = nn.Parameter(torch.tensor([0.5, 2.0, 5.0, 20.0]))
    network(3 * inputs)  # one step of its averages
    network.eval()
    found = losses(network, made(quant, network, "int8", inputs), inputs)
    for one in found.values():
        assert one.output_sqnr_db is None or one.output_sqnr_db > 20  # without the factors: less than 0
        assert one.weight_sqnr_db is None or one.weight_sqnr_db > 35
    assert found["head"].weight_sqnr_db is not None
    assert found["head"].output_sqnr_db is not None


@pytest.mark.parametrize("quant", [Static(flow=Flow.fx), Static(flow=Flow.eager, exclude=["layers.2"]), FakeQuant()])
def test_no_hook_is_left_and_nothing_is_changed(quant: Quant) -> None:
    torch.manual_seed(0)
    network, inputs = MLP(4, [8, 8], 2).eval(), torch.rand(32, 4)
    quantized = made(quant, network, "int8", inputs)

    def hooks(model: nn.Module) -> list[int]:
        return [len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules()]

    models = network, quantized
    with torch.no_grad():
        before = [(hooks(model), model(inputs)) for model in models]
        losses(network, quantized, inputs)
        for model, (hooked, given) in zip(models, before, strict=True):
            assert hooks(model) == hooked
            assert torch.equal(model(inputs), given)


def test_hooks_are_gone_also_when_the_network_fails() -> None:
    network = MLP(4, [8], 2).eval()
    layers = inspected(Cast(copy.deepcopy(network), torch.bfloat16), torch.ones(2, 4)).layers
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer_losses(network, network, layers, Tensors(None, (torch.ones(2, 5),)))
    assert not any(one._forward_hooks for one in network.modules())

"""What each layer loses: by hand where a few numbers tell, and against the network's own outputs elsewhere."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.nn import functional
from torch.nn.utils import parametrizations

from quantexp.benchmark.layers import layer_losses
from quantexp.config import Dynamic, Engine, FakeQuant, Flow, Granularity, Observer, Qat, Quant, Static
from quantexp.models.lenet5 import LeNet5
from quantexp.models.mlp import MLP
from quantexp.quant.inspection.recorded import calls
from quantexp.quant.methods.casting import Autocast, Cast
from quantexp.quant.methods.rounded_layers import FakeQuantized
from quantexp.results import LayerLoss
from quantexp.statistics.sqnr import sqnr_db
from quantexp.tasks.data import Tensors
from tests.networks import inspected, made

FLOWS = pytest.mark.parametrize("flow", Static.portable_flows())


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
            module.cover([torch.tensor([low, high])], 100.0)
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


def test_fewer_examples_are_held_at_once_if_their_values_take_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = nn.Sequential(linear((1.0, 0.25), (0.5, -2.0))), torch.rand(100, 2)
    sizes: list[int] = []

    def counted(model: nn.Module, batch: tuple[Tensor, ...]) -> object:
        sizes.append(len(batch[0]))
        return calls(model, batch)

    monkeypatch.setattr("quantexp.benchmark.layers.calls", counted)
    whole = losses(network, rounded(network, 2), inputs)["0"]
    assert sizes == [2, 64, 64, 36, 36]
    sizes.clear()
    monkeypatch.setattr("quantexp.benchmark.layers.HELD_BYTES", 30 * 32)  # 4 values of an example, in two networks
    assert losses(network, rounded(network, 2), inputs)["0"].output_sqnr_db == pytest.approx(whole.output_sqnr_db)
    assert sizes == [2, 30, 30, 30, 30, 30, 30, 10, 10]


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
    for option in (*(Static(flow=flow) for flow in Static.portable_flows()), FakeQuant()):
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
    [
        *(Static(flow=flow) for flow in Static.portable_flows()),
        Static(flow=Flow.fx, exclude=["convolution"]),
        Dynamic(),
    ],
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


# As the next layer takes it


@pytest.mark.parametrize("flow", [Flow.eager, Flow.fx])
def test_what_a_layer_passes_on_is_what_the_next_one_takes(flow: Flow) -> None:
    torch.manual_seed(0)
    network, inputs = MLP(4, [8, 8], 2).eval(), torch.randn(64, 4)
    first, second, last = losses(network, made(Dynamic(flow=flow), network, "int8", inputs), inputs).values()
    assert first.output_sqnr_db == pytest.approx(second.input_sqnr_db)  # behind ReLU, which is not fused
    assert second.output_sqnr_db == pytest.approx(last.input_sqnr_db)


class Blocks(nn.Module):
    """Convolution and linear layer, each with batch normalisation and ReLU behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.linear = nn.Sequential(nn.Linear(4 * 36, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.linear(self.convolution(x.view(-1, 1, 8, 8)).flatten(1)))
        return result


def test_fused_and_unfused_layers_are_compared_alike() -> None:
    torch.manual_seed(0)
    network, inputs = Blocks(), torch.randn(64, 64)
    for norm in (network.convolution[1], network.linear[1]):
        norm.weight = nn.Parameter(torch.logspace(-1, 1, norm.num_features))
    network(3 * inputs)
    network.eval()
    quantized = {flow: made(Static(flow=flow), network, "int8", inputs) for flow in (Flow.fx, Flow.eager)}
    fx, eager = (losses(network, model, inputs) for model in quantized.values())
    assert "linear.1" in eager, "eager does not fold the normalisation of a linear layer, fx does"
    assert "linear.1" not in fx
    for name in ("convolution.0", "linear.0"):
        figures = [found[name].output_sqnr_db for found in (fx, eager)]
        assert all(figure is not None and figure > 20 for figure in figures), name
    for found in (fx, eager):  # the head takes the output of the block, which has been rounded by then
        assert found["linear.0"].output_sqnr_db == pytest.approx(found["head"].input_sqnr_db, abs=3)


def test_a_normalisation_that_another_function_also_takes_is_not_behind_the_layer() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layer(x)
            return hidden + torch.relu(self.norm(hidden))

    network, inputs = Both().eval(), torch.randn(8, 4)
    found = calls(network, (inputs,))
    assert found["layer"][0].behind == ()
    assert [step.norm for step in found["norm"][0].behind] == [None]


def test_steps_are_seen_in_place_as_functions_and_as_methods() -> None:
    class Ways(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            first, second, third, fourth = self.layers
            x = functional.relu(first(x), inplace=True)
            return fourth(third(second(x).relu_()).relu())

    found = calls(Ways().eval(), (torch.randn(2, 4),))
    assert [len(layer_calls[0].behind) for layer_calls in found.values()] == [1, 1, 1, 0]
    before = found["layers.0"][0]
    assert before.output is not None
    assert before.inputs is not None
    assert bool((before.output < 0).any()), "the output is that of the layer, although ReLU overwrote it"
    (step,) = before.behind
    assert torch.equal(step.compute(before.output), found["layers.1"][0].inputs)


class Recurrent(nn.Module):
    """A layer with several outputs, and a function with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.weight_out = nn.LSTM(4, 8, batch_first=True), nn.Parameter(torch.randn(3, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.lstm(x.view(-1, 2, 4))[0][:, -1], self.weight_out)


def test_layers_with_several_outputs_lose_what_their_first_output_loses() -> None:
    torch.manual_seed(0)
    network, inputs = Recurrent().eval(), torch.randn(64, 8)
    quantized = quantize_dynamic(copy.deepcopy(network), {nn.LSTM}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    found = losses(network, quantized, inputs)
    with torch.no_grad():
        expected = sqnr_db(network.lstm(inputs.view(-1, 2, 4))[0], quantized.lstm(inputs.view(-1, 2, 4))[0])
    assert found["lstm"].output_sqnr_db == pytest.approx(expected)
    assert found["lstm"].weight_sqnr_db is not None and found["lstm"].weight_sqnr_db > 35
    assert found["weight_out"].weight_sqnr_db is None, "it is float"
    assert found["weight_out"].output_sqnr_db is not None


def test_functions_with_parameters_lose_like_layers() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(2, 8))

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(functional.relu(functional.linear(x, self.first)), self.last)

    torch.manual_seed(0)
    network, inputs = Functional().eval(), torch.randn(64, 4)
    first, last = losses(network, made(Static(flow=Flow.fx), network, "int8", inputs), inputs).values()
    assert first.output_sqnr_db == pytest.approx(last.input_sqnr_db)
    for loss in (first, last):
        assert loss.weight_sqnr_db is not None and loss.weight_sqnr_db > 35
        assert loss.clipped is not None and loss.clipped < 0.05
    assert last.output_sqnr_db is not None and last.output_sqnr_db > 20


def test_layers_of_a_transformer_lose_without_its_fused_kernel() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.Sequential(nn.Unflatten(1, (3, 8)), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))
    network.append(nn.Flatten()).eval()
    inputs = torch.randn(64, 24)
    simulated = made(FakeQuant(weight_bits=8, activation_bits=8), network, "simulated", inputs)
    for module in simulated.modules():
        if isinstance(module, FakeQuantized):
            module.cover([torch.tensor([-6.0, 6.0])], 100.0)
    found = losses(network, simulated, inputs)
    for name in ("self_attn", "linear1", "linear2"):
        figure = found[f"1.layers.0.{name}"].output_sqnr_db
        assert name == "self_attn" or (figure is not None and 20 < figure < 60)
    assert torch.backends.mha.get_fastpath_enabled()


def test_computed_weights_are_compared_as_they_are_used() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2)).eval()
    inputs = torch.randn(64, 4)
    first, last = losses(network, made(Static(flow=Flow.fx), network, "int8", inputs), inputs).values()
    for loss in (first, last):
        assert loss.weight_sqnr_db is not None and loss.weight_sqnr_db > 35
        assert loss.output_sqnr_db is not None and loss.output_sqnr_db > 25


def test_the_normalisation_behind_a_transposed_convolution_is_folded_into_its_output_channels() -> None:
    torch.manual_seed(0)
    layers = nn.Unflatten(1, (2, 4, 4)), nn.ConvTranspose2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten()
    network, inputs = nn.Sequential(*layers), torch.randn(64, 32)
    network[2].weight = nn.Parameter(torch.tensor([0.1, 1.0, 10.0]))
    network(3 * inputs)
    network.eval()
    quantized = made(
        Static(flow=Flow.fx, engine=Engine.fbgemm, weights=Granularity.per_tensor), network, "int8", inputs
    )
    one = losses(network, quantized, inputs)["1"]
    assert one.weight_sqnr_db is not None and one.weight_sqnr_db > 30

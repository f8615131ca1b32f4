"""Dynamic quantization: which weights share a scale, and embeddings in int8."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quantexp.benchmark.size import parameter_count, weight_bytes
from quantexp.checks.accuracy import coarse_weights
from quantexp.checks.arithmetic import compare
from quantexp.config import (
    Dynamic,
    Engine,
    Experiment,
    FakeQuant,
    Flow,
    Granularity,
    NoQuant,
    Quant,
    Static,
)
from quantexp.quant.engine import supported_engines, use_engine
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.inspection.promise import Promise
from quantexp.quant.methods import quantize
from quantexp.quant.methods.work import Form, Work
from quantexp.state.copies import copied
from quantexp.state.tensors import fill, flat_state
from quantexp.system.errors import ConfigError, QuantizationError
from tests.builders import comparison, layer_loss
from tests.networks import inspected, made

ROWS, WIDTH = 100, 8
TOKENS = (torch.arange(12).view(3, 4) * 7 % ROWS,)
FLOWS = [Flow.eager, Flow.fx]
PER_CHANNEL, PER_TENSOR = Granularity.per_channel, Granularity.per_tensor

pytestmark = pytest.mark.skipif("x86" not in supported_engines(), reason="needs the engine x86")


class Text(nn.Module):
    """Embeddings that int8 kernels support and some that they do not, a recurrent layer, and a product."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(ROWS, WIDTH, padding_idx=0)
        self.summed = nn.EmbeddingBag(ROWS, WIDTH, mode="sum")
        self.averaged = nn.EmbeddingBag(ROWS, WIDTH, mode="mean")
        self.padded = nn.EmbeddingBag(ROWS, WIDTH, mode="sum", padding_idx=0)
        self.bounded = nn.Embedding(ROWS, WIDTH, max_norm=1.0)
        self.gates = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        state, _ = self.gates(self.words(x) + self.bounded(x))
        out: Tensor = self.head(state.mean(1) + self.summed(x) + self.averaged(x) + self.padded(x))
        return out


class Words(nn.Module):
    """One embedding and one product."""

    def __init__(self, bound: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(ROWS, WIDTH, max_norm=bound), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(x).mean(1))
        return out


def schemes(option: Dynamic, network: nn.Module | None = None) -> dict[str, str | None]:
    """The qscheme of each layer of a network that the option made."""
    return {held.name: held.qscheme for held in held_weights(made(option, network or Text().eval(), "int8", *TOKENS))}


# Which weights share a scale


@pytest.mark.parametrize("flow", FLOWS)
def test_weights_share_a_scale_as_set_and_by_default_as_in_torch(flow: Flow) -> None:
    for weights, expected in ((None, "tensor"), (PER_TENSOR, "tensor"), (PER_CHANNEL, "channel")):
        found = schemes(Dynamic(flow=flow, weights=weights))
        assert found["head"] == f"per_{expected}_affine"
        assert found["gates"] == (f"per_{expected}_affine" if flow is Flow.eager else None)
        assert found["words"] is None


@pytest.mark.parametrize("engine", [Engine(name) for name in supported_engines()])
@pytest.mark.parametrize("layer", [nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")
def test_every_layer_of_the_flow_eager_has_weights_per_channel_on_every_engine(
    layer: Callable[[int, int], nn.Module], engine: Engine
) -> None:
    values = torch.linspace(-1, 1, 6 * 8)
    example = values.view(6, 1, 8) if layer in (nn.LSTM, nn.GRU) else values.view(6, 8)
    network = nn.Sequential(layer(8, 8)).eval()
    with use_engine(engine):
        quantized = made(Dynamic(flow=Flow.eager, engine=engine, weights=PER_CHANNEL), network, "int8", example)
        (held,) = held_weights(quantized)
        assert {weight.qscheme() for weight in held.weights} == {torch.per_channel_affine}
        assert compare(quantized, (example,)).wrong == []


def test_one_large_channel_costs_the_others_their_precision_only_per_tensor() -> None:
    network = nn.Sequential(nn.Linear(WIDTH, 2, bias=False)).eval()
    with torch.no_grad():
        network[0].weight[0], network[0].weight[1] = torch.full((WIDTH,), 127.0), torch.full((WIDTH,), 0.4)
    inputs = torch.ones(2, WIDTH)
    coarse, fine = (
        made(Dynamic(flow=Flow.eager, weights=weights), network, "int8", inputs)(inputs)
        for weights in (PER_TENSOR, PER_CHANNEL)
    )
    assert float(coarse[0, 1].detach()) == 0.0, "0.4 is less than half of a step of 1"
    assert float(fine[0, 1].detach()) == pytest.approx(WIDTH * 0.4, rel=0.02)


def test_the_setting_is_null_unless_set_and_then_follows_the_flow() -> None:
    assert {flow: Dynamic(flow=flow).granularity for flow in Dynamic.flows} == {
        Flow.eager: PER_TENSOR,
        Flow.fx: PER_TENSOR,
        Flow.pt2e: PER_CHANNEL,
        Flow.torchao: PER_CHANNEL,
        Flow.onnxruntime: PER_CHANNEL,
    }


@pytest.mark.parametrize("flow", [Flow.pt2e, Flow.torchao])
def test_other_flows_refuse_what_they_cannot_choose(flow: Flow) -> None:
    for name, settings in (("weights", {"weights": PER_TENSOR}), ("embeddings", {"embeddings": True})):
        with pytest.raises(
            ConfigError, match=rf"quant\.{name} cannot be chosen in quant\.flow={flow}.*use quant\.flow=fx or eager"
        ):
            Dynamic(flow=flow, **settings)  # type: ignore[arg-type]
    assert Dynamic(weights=PER_CHANNEL).candidates() == (Flow.eager, Flow.fx)


@pytest.mark.parametrize("option", [Dynamic(weights=PER_CHANNEL), Dynamic(flow=Flow.fx, embeddings=True)], ids=str)
def test_fp16_has_no_scales_and_no_embeddings(option: Dynamic) -> None:
    with pytest.raises(ConfigError, match=r"quant\.(weights|embeddings) is not supported by precision=fp16"):
        Experiment(quant=option, precision="fp16")


# Embeddings


@pytest.mark.parametrize("flow", FLOWS)
def test_embeddings_are_stored_in_int8_where_the_kernels_compute_the_same(flow: Flow) -> None:
    network, option = Text().eval(), Dynamic(flow=flow, embeddings=True)
    found = schemes(option, network)
    in_int8 = [name for name, scheme in found.items() if scheme == "per_channel_affine_float_qparams"]
    assert sorted(in_int8) == ["summed", "words"]
    quantized = made(option, network, "int8", *TOKENS)
    step = (network.words.weight.amax(1) - network.words.weight.amin(1)).max() / 255
    assert (quantized.words(TOKENS[0]) - network.words(TOKENS[0])).abs().max() <= step  # type: ignore[operator]


@pytest.mark.parametrize("flow", FLOWS)
def test_an_embedding_takes_a_byte_for_each_weight_and_a_scale_and_a_zero_point_for_each_row(flow: Flow) -> None:
    network = Words().eval()
    quantized = made(Dynamic(flow=flow, embeddings=True), network, "int8", *TOKENS)
    found = weight_bytes(quantized)
    assert found["int8"] == ROWS * WIDTH + WIDTH * 4
    assert found["fp32"] == 2 * ROWS * 4 + 4 * 4, "the bias of the head too"
    assert parameter_count(quantized) == parameter_count(network)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_network_with_int8_embeddings_is_stored_and_read_back_bit_for_bit(flow: Flow, tmp_path: Path) -> None:
    option = Dynamic(flow=flow, embeddings=True, weights=PER_CHANNEL)
    quantized = made(option, Words().eval(), "int8", *TOKENS)
    torch.save(flat_state(quantized), tmp_path / "state.pt")
    torch.manual_seed(1)
    other = Words().eval()
    nn.init.ones_(other.words.weight)
    again = made(option, other, "int8", *TOKENS)
    fill(again, torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again(*TOKENS), quantized(*TOKENS))
    assert torch.equal(copied(again)(*TOKENS), quantized(*TOKENS))


def test_an_embedding_that_was_to_be_quantized_must_be_found() -> None:
    promise = Promise("nn.Linear", "int8", "int8", required=("words",))
    right = made(Dynamic(flow=Flow.eager, embeddings=True), Words().eval(), "int8", *TOKENS)
    inspected(right, *TOKENS, promise=promise)
    wrong = made(Dynamic(flow=Flow.eager), Words().eval(), "int8", *TOKENS)
    with pytest.raises(QuantizationError, match=r"must have int8 weights in words; words have others"):
        inspected(wrong, *TOKENS, promise=promise)


def work(network: nn.Module) -> Work:
    """The arguments of a method for a network that was not trained."""

    class Ready:
        model = network

    class Examples:
        @staticmethod
        def first(count: int) -> tuple[Tensor, ...]:
            return (TOKENS[0][:count],)

    class Data:
        calibration = Examples

    return Work(Ready, Data, None, Form("int8", TOKENS), advise=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("flow", FLOWS)
def test_the_promise_names_the_embeddings_and_excuses_the_others(flow: Flow) -> None:
    promise = quantize(Dynamic(flow=flow, embeddings=True, exclude=["words"]), work(Text().eval())).promise
    assert promise is not None
    assert promise.required == ("summed",)
    assert "nn.Embedding" in promise.handles
    assert promise.excused["words"] == "quant.exclude=[words] includes it"
    assert promise.unfit["averaged"] == "the int8 kernel computes sums only, not mode=mean"
    assert promise.unfit["bounded"].startswith("its rows are normalised in each call")
    assert promise.unfit["padded"] == "the int8 kernel also adds the rows of padding_idx"


def test_a_network_without_an_embedding_to_quantize_is_an_error_with_the_reason() -> None:
    option = Dynamic(flow=Flow.eager, embeddings=True)
    with pytest.raises(QuantizationError, match=re.escape("quantize (it has none); leave it out")):
        quantize(option, work(nn.Sequential(nn.Linear(4, 4)).eval()))
    with pytest.raises(QuantizationError, match=r"quantize \(words: its rows are normalised"):
        quantize(option, work(Words(bound=1.0).eval()))


# What is advised


LOST = {"flips_gained": 5, "flips_lost": 60, "p_value": 1e-9}


@pytest.mark.parametrize(
    ("option", "advised"),
    [
        (Dynamic(flow=Flow.eager), True),
        (Dynamic(flow=Flow.fx, weights=PER_TENSOR), True),
        (Dynamic(flow=Flow.fx, weights=PER_CHANNEL), False),
        (Dynamic(flow=Flow.torchao), False),
        (Static(weights=PER_TENSOR), True),
        (Static(), False),
        (FakeQuant(weights=PER_TENSOR), True),
        (NoQuant(), False),
    ],
    ids=str,
)
def test_a_significant_loss_with_one_scale_for_a_layer_names_the_setting(option: Quant, advised: bool) -> None:
    found = [finding.text for finding in coarse_weights(option, "int8", comparison(**LOST))]
    told = (
        "the loss of accuracy is significant, and all weights of a layer share one scale; try quant.weights=per_channel"
    )
    assert found == [told] * advised


def test_layers_far_from_float_name_the_setting_too() -> None:
    layers = tuple(layer_loss(f"layers.{at}", output_sqnr_db=value) for at, value in enumerate((9.0, 8.0, 30.0)))
    told = (
        "the outputs of 2 layers are far from float, and all weights of a layer share one scale; "
        "try quant.weights=per_channel"
    )
    for weights, expected in ((PER_TENSOR, [told]), (PER_CHANNEL, [])):
        option = Dynamic(flow=Flow.eager, weights=weights)
        assert [one.text for one in coarse_weights(option, "int8", comparison(layers=layers))] == expected
    trained = FakeQuant(weights=PER_TENSOR, train=True)
    assert list(coarse_weights(trained, "simulated", comparison(layers=layers))) == []


def test_without_a_significant_loss_nothing_is_advised() -> None:
    option = Dynamic(flow=Flow.eager)
    assert list(coarse_weights(option, "int8", comparison())) == []
    assert list(coarse_weights(option, "int8", comparison(flips_gained=60, flips_lost=5, p_value=1e-9))) == []
    assert list(coarse_weights(option, "fp16", comparison(**LOST))) == []
    assert list(coarse_weights(option, "int8", None)) == []

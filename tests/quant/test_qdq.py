"""What PT2E converts, kept as pairs of quantize and dequantize: stored, loaded, inspected like any network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantexp.benchmark.size import parameter_count, weight_bytes
from quantexp.config import Dynamic, Flow, Qat, Quant, Static
from quantexp.models.lenet5 import LeNet5
from quantexp.models.mlp import MLP
from quantexp.quant.flows import pt2e
from quantexp.quant.flows.qdq import QdqNetwork
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.inspection.recorded import calls
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.state.tensors import fill, flat_state
from quantexp.tasks.inputs import Batch, examples
from tests.networks import inspected, made
from tests.tokens import CLASSES, SPECS, Averages

EXAMPLE = torch.linspace(-1.0, 3.0, 32).view(8, 4)
IMAGES = torch.linspace(-1.0, 3.0, 2 * 1024).view(2, 1, 32, 32)
OPTIONS: list[Quant] = [Static(flow=Flow.pt2e), Dynamic(flow=Flow.pt2e), Qat(flow=Flow.pt2e)]
NETWORKS: dict[str, tuple[type[nn.Module], tuple[object, ...], Batch]] = {
    "mlp": (MLP, (4, [3], 2), (EXAMPLE,)),
    "lenet5": (LeNet5, ((1, 32, 32), 10), (IMAGES,)),
    "token ids and mask": (Averages, (SPECS, CLASSES), examples(SPECS, 8)),
}


def fresh(name: str, seed: int) -> nn.Module:
    cls, arguments, _ = NETWORKS[name]
    torch.manual_seed(seed)
    return cls(*arguments).eval()


def kept(option: Quant, network: nn.Module, batch: Batch) -> QdqNetwork:
    """A copy of the network, quantized and not lowered, its ranges those of the batch."""
    quantized = skeleton(option, copy.deepcopy(network), Form("int8", batch, "qdq"))
    assert isinstance(quantized, QdqNetwork)
    return quantized


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS, ids=lambda one: one.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_brings_its_weights_and_ranges(name: str, option: Quant) -> None:
    batch = NETWORKS[name][2]
    model = kept(option, fresh(name, 0), batch)
    other = kept(option, fresh(name, 1), tuple(tensor[:2] for tensor in batch))
    with torch.no_grad():
        expected = model(*batch)
        assert not torch.equal(other(*batch), expected)
        fill(other, flat_state(model))
        for again in (other, copy.deepcopy(other), other.train(), other.eval()):
            assert torch.equal(again(*batch), expected)


@pytest.fixture
def all_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 bits on every machine: where sums could overflow, lowered networks have 7 of activations, others of weights."""
    monkeypatch.setattr("quantexp.quant.flows.x86_quantizer.reduces_range", lambda *_: False)


@pytest.mark.slow
@pytest.mark.usefixtures("all_bits")
@pytest.mark.parametrize("option", OPTIONS, ids=lambda one: one.name)
def test_it_computes_as_the_kernels_do_and_holds_what_they_hold(option: Quant) -> None:
    network = fresh("mlp", 0)
    model, lowered = kept(option, network, (EXAMPLE,)), made(option, network, "int8", EXAMPLE)
    with torch.no_grad():
        torch.testing.assert_close(model(EXAMPLE), lowered(EXAMPLE), atol=1e-5, rtol=0)
    weights, packed = weight_bytes(model), weight_bytes(lowered)
    for bytes_of in (weights, packed):
        bytes_of.pop("fp64", None)  # of the ranges, of which the kernels have one more for each output
    assert weights == packed
    assert parameter_count(model) == parameter_count(network)
    assert inspected(model, EXAMPLE).layers == inspected(lowered, EXAMPLE).layers


@pytest.mark.usefixtures("all_bits")
@pytest.mark.parametrize("option", OPTIONS, ids=lambda one: one.name)
def test_what_its_layers_take_and_give_is_what_they_do_lowered(option: Quant) -> None:
    network = fresh("mlp", 0)
    lowered = calls(made(option, network, "int8", EXAMPLE), (EXAMPLE,))
    for name, given in calls(kept(option, network, (EXAMPLE,)), (EXAMPLE,)).items():
        for one, other in zip(given, lowered[name], strict=True):
            assert (one.grid, one.rectified) == (other.grid, other.rectified)
            torch.testing.assert_close(one.inputs, other.inputs)
            torch.testing.assert_close(one.output, other.output, atol=1e-5, rtol=0)


def test_layers_that_stay_in_float_are_listed_beside_those_in_int8() -> None:
    _, _, batch = NETWORKS["token ids and mask"]
    model = kept(Static(flow=Flow.pt2e, exclude=["layers.2"]), fresh("token ids and mask", 0), batch)
    held = {one.name: (one.kind, one.dtype) for one in held_weights(model)}
    assert held == {
        "embedding": ("Embedding", torch.float32),
        "layers.0": ("Linear", torch.int8),
        "layers.2": ("Linear", torch.float32),
    }


class Attends(nn.Module):
    """Attention as one operator, with dropout in it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.first(x).unsqueeze(1)
        attended = F.scaled_dot_product_attention(parts, parts, parts, dropout_p=0.5 if self.training else 0.0)
        logits: Tensor = self.head(attended.squeeze(1).mean(1))
        return logits


@pytest.mark.slow
def test_dropout_in_fused_attention_is_on_in_training_and_off_in_evaluation() -> None:
    torch.manual_seed(0)
    batch = (torch.randn(4, 6, 8),)
    prepared = pt2e.prepare_qat(Qat(flow=Flow.pt2e), Attends(), batch, "kernels")
    with torch.no_grad():
        prepared(*batch)
        pt2e.freeze_observers(prepared)
        for mode, repeats in ((True, False), (False, True), (True, False), (False, True)):
            prepared.train(mode)
            assert torch.equal(prepared(*batch), prepared(*batch)) is repeats
        for target in ("qdq", "kernels"):
            converted = pt2e.convert(copy.deepcopy(prepared), target)
            assert torch.equal(converted(*batch), converted(*batch))

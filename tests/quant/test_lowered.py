"""What PT2E converts is lowered to integer kernels; what only looks quantized is told apart."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from quantexp.benchmark.size import parameter_count
from quantexp.config import Dynamic, Flow, Observer, Qat, Quant, Static
from quantexp.models.mlp import MLP
from quantexp.quant.flows import lowered, pt2e
from quantexp.quant.inspection.promise import Promise
from quantexp.quant.inspection.recorded import calls
from quantexp.results import Operator
from quantexp.state.tensors import fill, flat_state
from quantexp.system.errors import QuantizationError
from tests.networks import inspected, made

EXAMPLE = torch.linspace(-1.0, 3.0, 32).view(8, 4)
PROMISE = Promise(pt2e.HANDLES, "int8", "int8")
MACS = 4 * 3 + 3 * 2


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return MLP(4, [3], 2).eval()


def static(network: nn.Module, batch: Tensor = EXAMPLE, **settings: object) -> lowered.Lowered:
    option = Static(flow=Flow.pt2e, **settings)  # type: ignore[arg-type]
    prepared = pt2e.prepare_static(option, copy.deepcopy(network), (batch[:2],), "kernels")
    pt2e.calibrate(prepared, [(batch,)])
    model = pt2e.convert(prepared, "kernels")
    assert isinstance(model, lowered.Lowered)
    return model


def test_the_kernels_are_those_of_onednn(network: nn.Module) -> None:
    for model in (static(network), made(Qat(flow=Flow.pt2e), network, "int8", EXAMPLE)):
        evidence = inspected(model, EXAMPLE, promise=PROMISE)
        assert evidence.operators == (Operator("onednn.qlinear_pointwise", "int8", 2, MACS),)
        assert {(one.kind, one.qscheme, one.engine) for one in evidence.layers} == {
            ("Linear", "per_channel_symmetric", None)
        }
    dynamic = made(Dynamic(flow=Flow.pt2e), network, "int8", EXAMPLE)
    names = {one.name for one in inspected(dynamic, EXAMPLE, promise=PROMISE).operators}
    assert names == {"onednn.qlinear_pointwise"}


def test_a_converted_model_that_is_not_lowered_is_an_error(network: nn.Module) -> None:
    prepared = pt2e.prepare_static(Static(flow=Flow.pt2e), copy.deepcopy(network), (EXAMPLE[:2],), "kernels")
    pt2e.calibrate(prepared, [(EXAMPLE,)])
    converted = convert_pt2e(prepared.model)
    assert (converted(EXAMPLE) != network(EXAMPLE)).any(), "it computes like a quantized model"
    with pytest.raises(QuantizationError, match="must have int8 layers, it has fp32"):
        inspected(converted, EXAMPLE, promise=PROMISE)
    with pytest.raises(QuantizationError, match="must run int8 operators, it ran fp32"):
        inspected(converted, EXAMPLE, promise=Promise(pt2e.HANDLES, operators="int8"))


def test_a_graph_that_lowering_left_as_it_was_is_an_error(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowered, "freezing_passes", lambda *parts: None)
    model = static(network)
    with pytest.raises(QuantizationError, match="must have int8 layers, it has fp32"):
        inspected(model, EXAMPLE, promise=PROMISE)


@pytest.mark.parametrize(("observer", "span"), [(Observer.minmax, 4.0), (Observer.moving_average, 4.0)])
def test_the_range_of_the_inputs_is_that_of_the_calibration_batch(
    network: nn.Module, observer: Observer, span: float
) -> None:
    for reduce_range, steps in ((False, 255), (True, 127)):
        scale = static(network, observer=observer, reduce_range=reduce_range).qparams[0]
        assert float(scale) == pytest.approx(span / steps, rel=1e-5)


def test_a_percentile_leaves_outliers_out(network: nn.Module) -> None:
    batch = torch.cat([torch.linspace(-1.0, 1.0, 3999), torch.tensor([1e3])]).view(1000, 4)
    scale = static(network, batch, observer=Observer.percentile, percentile=99.9, reduce_range=False).qparams[0]
    assert 2 / 255 <= float(scale) <= (2 + 2 * 1001 / 2048) / 255 * 1.01  # within a bin of 2048 on each side


def test_a_state_brings_its_ranges_and_packs_its_weights(network: nn.Module) -> None:
    model = static(network)
    other = made(Static(flow=Flow.pt2e), MLP(4, [3], 2).eval(), "int8", torch.ones(2, 4))
    assert not torch.equal(other(EXAMPLE), model(EXAMPLE))
    fill(other, flat_state(model))
    assert torch.equal(other(EXAMPLE), model(EXAMPLE))
    assert torch.equal(copy.deepcopy(other)(EXAMPLE), model(EXAMPLE))


def test_batches_of_any_size_are_computed_example_by_example(network: nn.Module) -> None:
    model = static(network)
    whole = model(EXAMPLE)
    assert torch.equal(torch.cat([model(row[None]) for row in EXAMPLE]), whole)


def test_a_network_that_cannot_be_exported_is_an_error_with_the_reason() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x) if x.sum() > 0 else self.head(-x)

    with pytest.raises(QuantizationError, match=r"torch\.export can export .*, but it failed"):
        made(Static(flow=Flow.pt2e), Branches().eval(), "int8", EXAMPLE)


class Residual(nn.Module):
    """Convolutions on 4x4 images, of which one is added to what it takes, as lowering makes one operator of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.added = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.first(x.view(-1, 1, 4, 4)))
        logits: Tensor = self.head(torch.relu(maps + self.added(maps)).flatten(1))
        return logits


IMAGES = torch.linspace(-1.0, 3.0, 128).view(8, 16)
OF_FIRST, OF_ADDED, OF_HEAD = 3 * 9 * 16, 3 * 3 * 9 * 16, 48 * 2  # multiply-accumulates


def test_a_convolution_that_an_addition_is_fused_into_is_among_the_layers() -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    evidence = inspected(static(network, IMAGES), IMAGES, promise=PROMISE)
    assert [(one.name, one.kind, one.precision) for one in evidence.layers] == [
        *(("first", "Conv2d", "int8"), ("added", "Conv2d", "int8"), ("head", "Linear", "int8"))
    ]
    assert sum(one.macs for one in evidence.operators if one.precision == "int8") == OF_FIRST + OF_ADDED + OF_HEAD


def test_dynamic_quantization_rounds_nothing_of_convolutions_which_it_leaves_in_float() -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    model = made(Dynamic(flow=Flow.pt2e), network, "int8", IMAGES)
    evidence = inspected(model, IMAGES, promise=PROMISE)
    assert {one.name: one.precision for one in evidence.layers} == {"first": "fp32", "added": "fp32", "head": "int8"}
    assert isinstance(model, lowered.Lowered)
    given, float_given = calls(model, (IMAGES,)), calls(network, (IMAGES,))
    for name in ("first", "added"):
        (one,), (other,) = given[name], float_given[name]
        assert one.output is not None and other.output is not None
        torch.testing.assert_close(one.output.reshape(other.output.shape), other.output)


class Twice(nn.Module):
    """Its layer `again` is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.again(torch.relu(self.again(x)))))
        return logits


@pytest.mark.parametrize("exclude", [[], ["again"], ["head"]])
def test_a_layer_that_is_called_twice_is_one_layer_with_two_calls(exclude: list[str]) -> None:
    torch.manual_seed(0)
    network = Twice().eval()
    model = static(network, exclude=exclude)
    evidence = inspected(model, EXAMPLE, promise=PROMISE)
    precisions = {name: "fp32" if name in exclude else "int8" for name in ("again", "head")}
    assert {one.name: one.precision for one in evidence.layers} == precisions
    assert len(evidence.layers) == 2
    for name, given in calls(network, (EXAMPLE,)).items():
        for one, other in zip(given, calls(model, (EXAMPLE,))[name], strict=True):
            torch.testing.assert_close(other.inputs, one.inputs, atol=0.05, rtol=0)


def test_a_layer_of_which_one_call_stays_in_float_is_not_said_to_hold_int8() -> None:
    class Straight(Twice):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.again(self.again(x)))
            return logits

    torch.manual_seed(0)
    evidence = inspected(static(Straight().eval()), EXAMPLE, promise=PROMISE)
    in_float = any(one.precision == "fp32" for one in evidence.operators)
    assert [one.precision for one in evidence.layers] == ["fp32" if in_float else "int8", "int8"]


class Normed(nn.Module):
    """Layers with weights that multiply nothing: an embedding that is called twice, and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.embedding(ids) + self.embedding(ids.flip(0))))
        return logits


@pytest.mark.parametrize("option", [Static(flow=Flow.pt2e), Qat(flow=Flow.pt2e), Dynamic(flow=Flow.pt2e)])
def test_layers_that_multiply_nothing_are_among_the_layers_in_the_order_of_the_network(option: Quant) -> None:
    network, ids = Normed().eval(), torch.arange(8)
    model = made(option, network, "int8", ids)
    assert isinstance(model, lowered.Lowered)
    evidence = inspected(model, ids, promise=PROMISE)
    assert [(one.name, one.kind, one.precision) for one in evidence.layers] == [
        *(("embedding", "Embedding", "fp32"), ("norm", "LayerNorm", "fp32"), ("head", "Linear", "int8"))
    ]
    assert [(one.name, one.reason) for one in evidence.left_in_float] == [
        ("embedding", f"the method handles {pt2e.HANDLES}, not Embedding"),
        ("norm", f"the method handles {pt2e.HANDLES}, not LayerNorm"),
    ]
    assert {held.name: tuple(held.weight.shape) for held in model.held_weights()} == {
        "embedding": (9, 4),
        "norm": (4,),
        "head": (2, 4),
    }
    assert parameter_count(model) == parameter_count(network)
    assert list(calls(model, (ids,))) == ["embedding", "norm", "head"]

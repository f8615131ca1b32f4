"""Every method in every flow: what it leaves, that it can be copied and stored, and what is said where it cannot be."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchao.utils import should_reduce_range

from quantexp import tasks
from quantexp.benchmark.layers import layer_losses
from quantexp.benchmark.size import parameter_count, size, state_bytes
from quantexp.config import (
    METHODS,
    OVER_TORCH_AO,
    ByLayer,
    DataRequest,
    DataSource,
    Dynamic,
    Eager,
    Experiment,
    Flow,
    Kind,
    Mlp,
    Mnist,
    Qat,
    Static,
    Train,
)
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.working import UnquantizableError, explain_failure
from quantexp.quant.inspection.promise import Quantized
from quantexp.results import Evidence
from quantexp.runtimes import prepare
from quantexp.statistics.sqnr import sqnr_db
from quantexp.system.errors import QuantizationError
from quantexp.tasks.data import TaskData
from quantexp.training import baseline as baselines
from quantexp.training.baseline import Baseline, trained
from quantexp.training.loop import outputs
from tests.networks import inspected, loaded_again, made, predictions
from tests.runs import quantized as quantized_by

Sample = Callable[..., Experiment]

TRIPLES = [
    (method, flow, precision)
    for method in METHODS
    if issubclass(method, ByLayer)
    for flow, precisions in method.portable_flows().items()
    for precision in precisions
    if precision != "int4"  # wants wider layers: tests/quant/test_weight_only.py
]
EVERY = pytest.mark.parametrize(
    ("method", "flow", "precision"), TRIPLES, ids=lambda one: getattr(one, "name", str(one))
)
LAYERS = ("layers.0", "layers.2")
MACS = 400 * 16 + 16 * 10


@pytest.fixture(scope="module")
def data() -> TaskData:
    return tasks.load(Mnist(), Kind.features, DataRequest(DataSource.sample))


@pytest.fixture
def lowered(sample: Sample, data: TaskData) -> Callable[[ByLayer, str], tuple[Experiment, Baseline, Quantized]]:
    def lower(quant: ByLayer, precision: str) -> tuple[Experiment, Baseline, Quantized]:
        train = Train(epochs=3, learning_rate=0.01, threads=1)
        experiment = sample(quant=quant, precision=precision, model=Mlp(hidden=[16]), train=train)
        baseline = trained(experiment, data)
        return experiment, baseline, quantized_by(experiment, data, baseline)

    return lower


Lowered = Callable[[ByLayer, str], tuple[Experiment, Baseline, Quantized]]


def logits(model: nn.Module, data: TaskData, count: int = 64) -> Tensor:
    with torch.no_grad():
        return model(*data.test.first(count))


def evidence_of(experiment: Experiment, quantized: Quantized, data: TaskData) -> Evidence:
    return inspected(quantized.model, *data.example, promise=quantized.promise, engine=experiment.quant.packs_for)


@pytest.mark.exhaustive
@EVERY
def test_each_flow_keeps_what_its_method_promises_and_the_float_model(
    lowered: Lowered, data: TaskData, method: type[ByLayer], flow: Flow, precision: str
) -> None:
    experiment, baseline, quantized = lowered(method(flow=flow), precision)
    before = logits(baseline.model, data)
    evidence = evidence_of(experiment, quantized, data)
    assert [(layer.name, layer.precision) for layer in evidence.layers] == [(name, precision) for name in LAYERS]
    assert sum(operator.macs for operator in evidence.operators) == MACS
    assert parameter_count(quantized.model) == parameter_count(baseline.model) == 401 * 16 + 17 * 10
    assert torch.equal(logits(baseline.model, data), before)
    assert {type(one) for one in baseline.model.parameters()} == {nn.Parameter}
    assert {type(one) for one in baseline.model.modules()} == {nn.Linear, nn.ReLU, nn.Sequential, type(baseline.model)}
    changed = (predictions(baseline.model, data.test) != predictions(quantized.model, data.test)).float().mean()
    assert changed <= (1.0 if method is Qat else 0.05)
    right = (predictions(quantized.model, data.test) == data.test.labels).float().mean()
    assert right > 0.7


@pytest.mark.exhaustive
@EVERY
def test_each_flow_tells_what_every_layer_loses(
    lowered: Lowered, data: TaskData, method: type[ByLayer], flow: Flow, precision: str
) -> None:
    experiment, baseline, quantized = lowered(method(flow=flow), precision)
    layers = evidence_of(experiment, quantized, data).layers
    first, last = layer_losses(baseline.model, quantized.model, layers, data.test)
    assert (first.name, last.name) == LAYERS
    whole = sqnr_db(*(outputs(model, data.test) for model in (baseline.model, quantized.model)))
    assert last.output_sqnr_db == pytest.approx(whole)
    for one in (first, last):
        assert (one.grid_low is not None) == (one.clipped is not None) == (method in (Static, Qat))
        if method is not Qat:  # whose training moves weights too
            weight = baseline.model.get_submodule(one.name).weight.detach()
            narrow = (method, flow) == (Dynamic, Flow.torchao) and should_reduce_range(torch.device("cpu"))
            step = weight.abs().max() / ((63 if narrow else 127) if precision == "int8" else 2**10)
            assert one.weight_max_error is not None
            assert 0 < one.weight_max_error <= step / 2 * 1.01


@pytest.mark.exhaustive
@EVERY
def test_each_flow_makes_the_weights_as_small_as_their_bits(
    lowered: Lowered, data: TaskData, method: type[ByLayer], flow: Flow, precision: str
) -> None:
    _, baseline, quantized = lowered(method(flow=flow), precision)
    held = size(quantized.model, None).weight_bytes
    zero_points = 16 + 10 if flow is Flow.torchao else 0  # a byte a channel
    assert held[precision] == MACS * int(precision.strip("intfp")) // 8 + zero_points
    if precision.startswith("int"):  # torch stores the halves of dynamic fp16 as float32
        assert state_bytes(quantized.model) < state_bytes(baseline.model)


@pytest.mark.exhaustive
@EVERY
def test_a_copy_lies_elsewhere_in_memory_and_computes_the_same(
    lowered: Lowered, data: TaskData, method: type[ByLayer], flow: Flow, precision: str
) -> None:
    experiment, _, quantized = lowered(method(flow=flow), precision)
    evidence = evidence_of(experiment, quantized, data)
    with torch.inference_mode():
        again = prepare(Eager(), quantized.model, data.example, experiment.quant.packs_for).copied()
        for count in (1, 2, 64):
            assert torch.equal(logits(again, data, count), logits(quantized.model, data, count))
    held, copied = ([*model.parameters(), *model.buffers()] for model in (quantized.model, again))
    places = {one.data_ptr() for one in held if one.numel()} - {0}  # packed weights tell no place
    assert places.isdisjoint(one.data_ptr() for one in copied)
    assert evidence_of(experiment, Quantized(again, quantized.promise), data) == evidence


@pytest.mark.exhaustive
@EVERY
def test_a_stored_model_predicts_the_same_bit_for_bit(
    lowered: Lowered, data: TaskData, tmp_path: Path, method: type[ByLayer], flow: Flow, precision: str
) -> None:
    experiment, _, quantized = lowered(method(flow=flow), precision)
    again = loaded_again(tmp_path, quantized.model, experiment, data)
    for count in (1, 64):
        assert torch.equal(logits(again, data, count), logits(quantized.model, data, count))


@pytest.mark.exhaustive
@pytest.mark.parametrize("flow", Qat.flows)
def test_what_qat_trains_in_a_flow_is_trained_once(
    lowered: Lowered, data: TaskData, monkeypatch: pytest.MonkeyPatch, flow: Flow
) -> None:
    _, _, first = lowered(Qat(flow=flow), "int8")

    def train(*parts: Any) -> None:
        raise AssertionError("it was trained again")

    monkeypatch.setattr(baselines, "fit", train)
    monkeypatch.setattr("quantexp.quant.methods.qat.fit", train)
    _, _, again = lowered(Qat(flow=flow), "int8")
    assert torch.equal(logits(first.model, data), logits(again.model, data))


# A network with convolutions, and the ways through eager mode


class Images(nn.Module):
    """Rows of 64 values as 8x8 images through a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * 3 * 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.features(x.view(-1, 1, 8, 8)))
        return result


PIXELS = torch.linspace(-1.0, 1.0, 2 * 64).view(2, 64)
CONVOLUTION, LINEAR = 9 * 4 * 36, 36 * 5


@pytest.mark.parametrize(
    ("method", "flow"), [(one, flow) for one in (Static, Qat) for flow in one.portable_flows()], ids=str
)
def test_convolutions_are_quantized_too(method: type[ByLayer], flow: Flow) -> None:
    torch.manual_seed(0)
    network = Images().eval()
    option = method(flow=flow)
    model = made(option, network, "int8", PIXELS)
    evidence = inspected(model, PIXELS, engine=option.packs_for)
    assert [(one.name, one.precision) for one in evidence.layers] == [("features.0", "int8"), ("head", "int8")]
    assert sum(one.macs for one in evidence.operators) == CONVOLUTION + LINEAR
    assert evidence.mac_share("int8") == 1.0
    with torch.no_grad():
        assert (model(PIXELS) - network(PIXELS)).abs().max() < 0.05


def test_eager_fuses_neighbours_of_a_sequential_and_passes_quantized_tensors_on() -> None:
    model = made(Static(flow=Flow.eager), Images().eval(), "int8", PIXELS)
    names = [operator.name for operator in inspected(model, PIXELS).operators]
    assert [name.split(".")[1] for name in names] == ["conv2d_relu", "linear"]


def test_eager_goes_around_layers_that_have_no_int8_kernel() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pairs, self.last = nn.Linear(64, 8), nn.Bilinear(8, 8, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            result: Tensor = self.last(self.pairs(hidden, hidden))
            return result

    model = made(Static(flow=Flow.eager), Mixed().eval(), "int8", PIXELS)
    layers = {one.name: one.precision for one in inspected(model, PIXELS).layers}
    assert layers == {"first": "int8", "pairs": "fp32", "last": "int8"}


def test_an_operator_that_takes_no_quantized_tensors_is_named() -> None:
    class Softens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.log_softmax(self.head(x), 1)

    network = Softens().eval()
    with pytest.raises(UnquantizableError, match="it failed at model") as told, explain_failure("it must run"):
        made(Static(flow=Flow.eager), network, "int8", PIXELS)(PIXELS)
    assert "log_softmax" in str(told.value)


class Unscaled(nn.Module):
    """Its batch normalisation has no weights: torch cannot fold it into the layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(64, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.relu(self.norm(self.first(x))))
        return result


class Branches(nn.Module):
    """What it does depends on what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(x if x.sum() > 0 else -x)
        return result


@pytest.mark.parametrize("flow", [Flow.fx, Flow.pt2e])
@pytest.mark.parametrize(("network", "methods"), [(Unscaled, [Static, Dynamic]), (Branches, [Static, Dynamic, Qat])])
def test_a_network_that_a_flow_cannot_take_is_an_error_with_the_reason(
    flow: Flow, network: type[nn.Module], methods: list[type[Static | Dynamic | Qat]]
) -> None:
    for method in methods:
        with pytest.raises(QuantizationError, match=rf"^quant\.flow={flow} needs .*, but it failed"):
            made(method(flow=flow), network().eval(), "int8", PIXELS)


# A torch without torch.ao


class Residual(nn.Module):
    """A residual block with one ReLU for both of its calls, as in ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.conv1, self.norm1, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()
        self.conv2, self.norm2, self.output = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        logits: Tensor = self.output(torch.flatten(self.relu(inner + x), 1))
        return logits


@pytest.mark.slow
@pytest.mark.parametrize("flow", [Flow.fx, Flow.pt2e])
@pytest.mark.parametrize("method", [Static, Qat])
def test_a_relu_can_be_called_several_times(method: type[ByLayer], flow: Flow) -> None:
    torch.manual_seed(0)
    network, x = Residual().eval(), torch.randn(8, 3, 4, 4)
    quantized = made(method(flow=flow), network, "int8", x)
    assert inspected(quantized, x, source=network).mac_share("int8") == 1
    assert sqnr_db(network(x).detach(), quantized(x)) > 20


@pytest.fixture
def without_torch_ao(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that quantexp finds no torch.ao in; what torch and torchao take from it themselves is theirs."""
    for name in [name for name in sys.modules if name.startswith("quantexp.quant.flows.")]:
        monkeypatch.delitem(sys.modules, name)
    imported = builtins.__import__

    def importing(name: str, globals: Any = None, *parts: Any) -> Any:
        if name.startswith("torch.ao") and str((globals or {}).get("__name__")).startswith("quantexp."):
            raise ModuleNotFoundError("No module named 'torch.ao'", name="torch.ao")
        return imported(name, globals, *parts)

    monkeypatch.setattr(builtins, "__import__", importing)


@EVERY
def test_without_torch_ao_the_flows_that_need_it_say_so_and_the_others_work(
    without_torch_ao: None, method: type[ByLayer], flow: Flow, precision: str
) -> None:
    option = method(flow=flow)
    if flow not in OVER_TORCH_AO:
        assert flow_of(option).__name__.endswith(f".{flow}")
        return
    with pytest.raises(QuantizationError) as error:
        flow_of(option)
    others = [other for other in method.portable_flows() if other not in OVER_TORCH_AO]
    assert str(error.value).startswith(f"quant.flow={flow} is not supported by torch {torch.__version__} (No module")
    assert str(error.value).endswith(
        f"use quant.flow={' or '.join(others)}, or an older torch" if others else "use an older torch"
    )

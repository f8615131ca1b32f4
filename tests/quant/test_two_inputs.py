"""A network with two inputs, token ids and a mask, by every method in every flow: what runs, what stays in float."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quantexp.benchmark.layers import layer_losses
from quantexp.benchmark.size import parameter_count, weight_bytes
from quantexp.config import (
    METHODS,
    ByLayer,
    CustomModel,
    CustomTask,
    DataSource,
    Dynamic,
    Experiment,
    FakeQuant,
    Flow,
    NoQuant,
    Qat,
    Quant,
    Static,
    Train,
)
from quantexp.mission import load, run
from quantexp.quant.flows.working import UnquantizableError, explain_failure
from quantexp.quant.methods.casting import Cast
from quantexp.results import LeftInFloat
from quantexp.system.errors import QuantizationError
from quantexp.tasks.inputs import Batch, examples
from quantexp.training.baseline import Baseline, trained
from tests.networks import inspected, loaded_again, made, predictions
from tests.runs import quantized
from tests.tokens import CLASSES, HIDDEN, SPECS, WIDTH, WORDS, Averages

Own = Callable[..., Experiment]

EAGER = [(Static, Flow.eager, "int8"), (Qat, Flow.eager, "int8")]  # has no kernels for what stands between the layers
EVERY = [
    (method, flow, precision)
    for method in METHODS
    for flow in (method.portable_flows() if issubclass(method, ByLayer) else (None,))
    for precision in (method.flows[flow] if issubclass(method, ByLayer) else method.precisions)
    if precision != "int4" and (method, flow, precision) not in EAGER  # no width here is one that int4 takes
]
BY_LAYER = [one for one in EVERY if one[1]]
LINEAR = WIDTH * HIDDEN + HIDDEN * CLASSES  # multiply-accumulates of an example
PARAMETERS = WORDS * WIDTH + LINEAR + HIDDEN + CLASSES


def of_case(value: object) -> str:
    return getattr(value, "name", str(value)) if value is not None else ""


every = pytest.mark.parametrize(("method", "flow", "precision"), EVERY, ids=of_case)
by_layer = pytest.mark.parametrize(("method", "flow", "precision"), BY_LAYER, ids=of_case)


def option(method: type[Quant], flow: Flow | None) -> Quant:
    return method(flow=flow) if flow else method()  # type: ignore[call-arg]


@pytest.fixture
def own(sample: Own) -> Own:
    """An experiment on the user's own task and network."""

    def build(**parts: object) -> Experiment:
        settings: dict[str, object] = {
            "task": CustomTask(target="tests.tokens.Sentences"),
            "model": CustomModel(target="tests.tokens.Averages"),
            "data": DataSource.full,
            "train": Train(epochs=6, learning_rate=0.02, threads=1),
        }
        return sample(**{**settings, **parts})

    return build


@pytest.mark.exhaustive
@every
def test_every_method_learns_runs_as_it_promises_and_is_given_back_bit_for_bit(
    own: Own, tmp_path: Path, method: type[Quant], flow: Flow | None, precision: str
) -> None:
    quant = option(method, flow)
    experiment = own(quant=quant, precision=precision)
    data = load(experiment)
    baseline = trained(experiment, data)
    found = quantized(experiment, data, baseline)
    evidence = inspected(found.model, *data.example, promise=found.promise, engine=quant.packs_for)
    assert sum(one.macs for one in evidence.operators) == LINEAR
    if method not in (NoQuant, FakeQuant) and (method.name, precision) != ("weight_only", "int8"):
        assert evidence.mac_share(precision) == 1.0
    assert parameter_count(found.model) == PARAMETERS
    assert data.test.labels is not None
    for network in (baseline.model, found.model):
        assert (predictions(network, data.test) == data.test.labels).float().mean() > 0.8
    again = loaded_again(tmp_path, found.model, experiment, data, trust=True)
    with torch.no_grad():
        for count in (1, 2, 64):
            batch = data.test.first(count)
            assert torch.equal(again(*batch), found.model(*batch))
            assert again(*batch).dtype is torch.float32


@pytest.mark.exhaustive
@by_layer
def test_the_embedding_stays_in_float_and_is_listed_with_the_reason(
    own: Own, method: type[ByLayer], flow: Flow, precision: str
) -> None:
    experiment = own(quant=method(flow=flow), precision=precision)
    data = load(experiment)
    found = quantized(experiment, data)
    assert found.promise is not None
    evidence = inspected(found.model, *data.example, promise=found.promise)
    assert [(one.name, one.precision) for one in evidence.layers] == [
        ("embedding", "fp32"),
        ("layers.0", precision),
        ("layers.2", precision),
    ]
    reason = f"the method handles {found.promise.handles}, not Embedding"
    assert evidence.left_in_float == (LeftInFloat("embedding", reason),)
    assert weight_bytes(found.model)["fp32"] >= 4 * WORDS * WIDTH


@pytest.mark.exhaustive
@by_layer
def test_an_embedding_loses_nothing_and_has_no_range_of_inputs(
    own: Own, method: type[ByLayer], flow: Flow, precision: str
) -> None:
    experiment = own(quant=method(flow=flow), precision=precision)
    data = load(experiment)
    baseline, found = trained(experiment, data), quantized(experiment, data)
    layers = inspected(found.model, *data.example).layers
    embedding, first, last = layer_losses(baseline.model, found.model, layers, data.test)
    assert (embedding.name, embedding.precision) == ("embedding", "fp32")
    ranges = (embedding.input_low, embedding.input_high, embedding.grid_low, embedding.clipped)
    assert ranges == (None, None, None, None), "ids are no values that could be rounded"
    assert (embedding.weight_max_error, embedding.input_sqnr_db) == (None, None)
    for one in (first, last):
        assert one.input_low is not None
        assert one.output_sqnr_db is not None


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", [Static, Qat], ids=of_case)
def test_eager_mode_ends_in_an_error_that_names_a_flow_which_works(own: Own, method: type[Static | Qat]) -> None:
    with pytest.raises(QuantizationError) as error:
        run(own(quant=method(flow=Flow.eager)))
    rule = f"quant={method.name} quant.flow=eager needs a network that it can quantize and run, but it failed at"
    assert str(error.value).startswith(rule)
    assert str(error.value).endswith("; use quant.flow=fx, which quantizes this network")
    report = run(own(quant=method(flow=Flow.fx))).report
    assert report.result.evidence.mac_share("int8") == 1.0


def test_qat_does_not_train_what_cannot_run(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = own(quant=Qat(flow=Flow.eager))
    data = load(experiment)
    baseline = trained(experiment, data)
    monkeypatch.setattr("quantexp.quant.methods.qat.fit", lambda *parts, **settings: pytest.fail("it was trained"))
    with pytest.raises(QuantizationError, match=r"quant\.flow=eager .* use quant\.flow=fx"):
        quantized(experiment, data, baseline)


class Branches(Averages):
    """What it does depends on what it is given: it can be traced by no flow."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return super().forward(ids, mask) if mask.sum() > 0 else super().forward(ids, 1 - mask)


def test_what_eager_mode_cannot_run_is_an_error_and_dynamic_quantization_takes_it() -> None:
    batch = examples(SPECS, 2)
    network = Branches(SPECS, CLASSES).eval()
    with pytest.raises(UnquantizableError, match="it failed"), explain_failure("it must run"):
        made(Static(flow=Flow.eager), network, "int8", *batch)(*batch)
    assert inspected(made(Dynamic(), network, "int8", *batch), *batch).mac_share("int8") == 1.0


# Masks, and what is computed with them


class Weighted(nn.Module):
    """Combines values with a mask of any type, in the way that `how` names."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        embedded, shown = self.embedding(ids), mask.unsqueeze(-1)
        if self.how == "product":
            summed = (embedded * shown).sum(1)
        elif self.how == "filled":
            summed = embedded.masked_fill(shown == 0, 0.0).sum(1)
        else:
            summed = torch.bmm(mask.unsqueeze(1).to(embedded.dtype), embedded).squeeze(1)
        logits: Tensor = self.head(summed / mask.sum(1, keepdim=True))
        return logits


def of_type(dtype: torch.dtype, count: int = 8) -> Batch:
    ids, mask = examples(SPECS, count)
    return ids, mask.to(dtype)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32], ids=str)
@pytest.mark.parametrize("how", ["product", "filled", "matrix product"])
@pytest.mark.parametrize(("method", "flow"), [(Static, Flow.fx), (Qat, Flow.pt2e)], ids=of_case)
def test_masks_of_any_type_combine_with_values_in_any_way(
    method: type[Static | Qat], flow: Flow, how: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    network, batch = Weighted(how).eval(), of_type(dtype)
    model = made(method(flow=flow), network, "int8", *batch)
    layers = {one.name: one.precision for one in inspected(model, *batch).layers}
    assert layers == {"embedding": "fp32", "head": "int8"}
    with torch.no_grad():
        assert (model(*batch) - network(*batch)).abs().max() < 0.02


def test_fx_observes_no_integers() -> None:
    network, batch = Averages(SPECS, CLASSES).eval(), examples(SPECS, 8)
    quantized_model = made(Static(), network, "int8", *batch)
    quantizes = [node for node in quantized_model.graph.nodes if node.target is torch.quantize_per_tensor]
    assert quantizes
    assert all(node.args[0].name not in ("ids", "mask", "unsqueeze") for node in quantizes)


# Casting


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_casting_touches_floating_point_inputs_only(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    class Sees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, *batch: Tensor) -> Tensor:
            seen.extend(tensor.dtype for tensor in batch)
            logits: Tensor = self.head(batch[0])
            return logits

    given = (torch.ones(2, 2), torch.ones(2, 2, dtype=torch.int64), torch.ones(2, dtype=torch.bool))
    assert Cast(copy.deepcopy(Sees()), dtype)(*given).dtype is torch.float32
    assert seen == [dtype, torch.int64, torch.bool]
    assert [tensor.dtype for tensor in given] == [torch.float32, torch.int64, torch.bool], "left as they were"


def test_a_network_that_makes_float32_of_its_inputs_cannot_be_cast_and_is_told_what_can(own: Own) -> None:
    for precision in ("bf16", "fp16"):
        experiment = own(model=CustomModel(target=f"{__name__}.MakesFloats"), quant=NoQuant(), precision=precision)
        with pytest.raises(
            QuantizationError,
            match=r"^quant=none needs a network .* but it failed at layers\.0 .* use quant=dynamic ",
        ):
            quantized(experiment)


class MakesFloats(Averages):
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.layers((self.embedding(ids) * mask.unsqueeze(-1).float()).sum(1))
        return logits


# The whole way


@pytest.mark.exhaustive
@pytest.mark.parametrize("quant", [NoQuant(), Static(), Static(flow=Flow.pt2e), Qat(), FakeQuant()], ids=of_case)
def test_a_run_of_ones_own_task_and_network_is_measured_as_any_other(own: Own, quant: Quant) -> None:
    report = run(own(quant=quant)).report
    assert (report.task, report.model) == ("custom", "custom")
    assert report.flops == 2 * LINEAR
    assert report.baseline.quality is not None and report.baseline.quality.value > 0.8
    assert report.baseline.size.parameters == PARAMETERS
    assert report.result.size.stored_bytes is not None
    if quant.timed:
        assert [one.batch_size for one in report.result.latency] == [1, 8]


@pytest.mark.exhaustive
def test_without_labels_the_network_is_drawn_and_compared_with_itself(own: Own) -> None:
    report = run(own(quant=Static(), data=DataSource.synthetic)).report
    assert report.objective == "unlabelled"
    assert report.baseline.quality is None
    assert report.comparison is not None
    assert report.comparison.quality is None
    assert report.comparison.output_sqnr_db is not None and report.comparison.output_sqnr_db > 20


@pytest.mark.exhaustive
def test_the_float_network_is_left_as_it_was(own: Own) -> None:
    experiment = own()
    data = load(experiment)
    baseline: Baseline = trained(experiment, data)
    before = {name: value.clone() for name, value in baseline.model.state_dict().items()}
    for method, flow, precision in EVERY:
        quantized(own(quant=option(method, flow), precision=precision), data, baseline)
    assert all(torch.equal(value, before[name]) for name, value in baseline.model.state_dict().items())
    assert not baseline.model.training

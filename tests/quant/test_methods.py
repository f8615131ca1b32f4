from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from itertools import pairwise, product
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import Linear
from torch.ao.quantization import QConfigMapping
from torch.ao.quantization.quantize_fx import convert_to_reference_fx

from quantexp import tasks
from quantexp.benchmark.size import parameter_count, state_bytes
from quantexp.config import (
    METHODS,
    Amp,
    DataRequest,
    DataSource,
    Dynamic,
    Engine,
    Experiment,
    FakeQuant,
    Flow,
    Granularity,
    Kind,
    Mlp,
    Mnist,
    Model,
    NoQuant,
    Observer,
    Qat,
    Quant,
    Sst2,
    Start,
    Static,
    Taken,
    Task,
    Train,
)
from quantexp.mission import run
from quantexp.quant.engine import supported_engines
from quantexp.quant.flows import eager, fx
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods import qat
from quantexp.results import Evidence, InputSpec
from quantexp.statistics.paired import flips
from quantexp.system.errors import QuantizationError
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import Baseline, trained
from tests.networks import inspected, predictions
from tests.runs import quantized as quantized_by

Sample = Callable[..., Experiment]
Once = Callable[[Experiment], tuple[Baseline, Quantized, Evidence]]

HIDDEN = [16]
TASKS = {"mnist": Mnist, "sst2": Sst2}
PAIRS = [
    (method, precision) for method in METHODS for precision in method.precisions if precision != "int4"
]  # int4 wants wider layers: tests/quant/test_weight_only.py
LOWERED = [pair for pair in PAIRS if pair[1] != "fp32"]
ENGINES = [Engine(name) for name in supported_engines()]


def of_pair(value: object) -> str:
    return value.name if isinstance(value, type) and issubclass(value, Quant) else str(value)


@functools.cache
def data_of(task: str) -> TaskData:
    """The sample of a task, read once; no test writes into it."""
    return tasks.load(TASKS[task](), Kind.features, DataRequest(DataSource.sample))


@pytest.fixture
def small(sample: Sample) -> Sample:
    """Build a quick experiment with a small network that learns enough to be sure of most examples."""

    def build(task: str = "mnist", **parts: object) -> Experiment:
        train = Train(epochs=3, learning_rate=0.01, threads=1)
        named: Task = TASKS[task]()
        return sample(**{"task": named, "model": Mlp(hidden=list(HIDDEN)), "train": train, **parts})

    return build


def quantize(experiment: Experiment) -> tuple[Baseline, Quantized, Evidence]:
    """Train or load the float model, quantize it, and look at what was left."""
    data = data_of(experiment.task.name)
    baseline = trained(experiment, data)
    quantized, engine = quantized_by(experiment, data, baseline), experiment.quant.packs_for
    return baseline, quantized, inspected(quantized.model, *data.example, promise=quantized.promise, engine=engine)


@pytest.fixture(scope="module")
def once() -> Once:
    """Quantize as `quantize` does, the same experiment only once; for tests that only look at what it left."""
    made: dict[str, tuple[Baseline, Quantized, Evidence]] = {}

    def get(experiment: Experiment) -> tuple[Baseline, Quantized, Evidence]:
        return made.get(repr(experiment)) or made.setdefault(repr(experiment), quantize(experiment))

    return get


def logits(model: nn.Module, data: TaskData) -> Tensor:
    with torch.no_grad():
        return model(*data.test.first(64))


def labels_of(data: TaskData) -> Tensor:
    assert data.test.labels is not None
    return data.test.labels


def disagreement(baseline: Baseline, quantized: Quantized, data: TaskData) -> float:
    """Share of the test examples that both models classify differently."""
    return (predictions(baseline.model, data.test) != predictions(quantized.model, data.test)).float().mean().item()


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def int8_layers(model: nn.Module) -> list[Linear]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def closed_form(inputs: int, hidden: list[int], classes: int) -> int:
    """A weight for each pair of neighbouring units, and a bias for each unit but the inputs."""
    return sum((before + 1) * after for before, after in pairwise([inputs, *hidden, classes]))


# Every method, every precision, both tasks


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_quantizing_leaves_the_float_model_as_it_was_bit_for_bit(
    small: Sample, method: type[Quant], precision: str, task: str
) -> None:
    experiment, data = small(task, quant=method(), precision=precision), data_of(task)
    baseline = trained(experiment, data)
    before, predicted = bits(baseline.model), logits(baseline.model, data)
    classes = {name: type(module) for name, module in baseline.model.named_modules()}
    quantized = quantized_by(experiment, data, baseline)
    logits(quantized.model, data)
    after = bits(baseline.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert {name: type(module) for name, module in baseline.model.named_modules()} == classes
    assert torch.equal(logits(baseline.model, data), predicted)
    assert not baseline.model.training


KINDS = {  # what is left: the precision of the layers, that of the operators
    ("none", "fp32"): ("fp32", "fp32"),
    ("none", "bf16"): ("bf16", "bf16"),
    ("none", "fp16"): ("fp16", "fp16"),
    ("dynamic", "int8"): ("int8", "int8"),
    ("dynamic", "fp16"): ("fp16", "fp16"),
    ("weight_only", "int8"): ("int8", "fp32"),
    ("static", "int8"): ("int8", "int8"),
    ("qat", "int8"): ("int8", "int8"),
    ("amp", "bf16"): ("fp32", "bf16"),
    ("amp", "fp16"): ("fp32", "fp16"),
    ("fake_quant", "simulated"): ("simulated", "fp32"),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_every_layer_and_every_operator_is_what_the_method_promises(
    small: Sample, once: Once, method: type[Quant], precision: str, task: str
) -> None:
    _, quantized, evidence = once(small(task, quant=method(), precision=precision))
    layers, operators = KINDS[method.name, precision]
    linear = len(HIDDEN) + 1
    assert [layer.precision for layer in evidence.layers] == [layers] * linear
    assert {operator.precision for operator in evidence.operators} == {operators}
    assert sum(operator.calls for operator in evidence.operators) == linear
    assert evidence.left_in_float == ()
    data = data_of(task)
    widths = [data.inputs[0].values, *HIDDEN, data.classes]
    assert sum(operator.macs for operator in evidence.operators) == sum(a * b for a, b in pairwise(widths))
    assert evidence.mac_share(operators) == 1.0
    assert (quantized.promise is None) == (precision == "fp32")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_a_quantized_model_takes_float32_and_gives_float32_logits_that_are_finite(
    small: Sample, once: Once, method: type[Quant], precision: str, task: str
) -> None:
    data = data_of(task)
    _, quantized, _ = once(small(task, quant=method(), precision=precision))
    given = logits(quantized.model, data)
    assert given.shape == (64, data.classes)
    assert given.dtype == torch.float32
    assert given.isfinite().all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_every_variant_has_the_parameters_of_the_network(
    small: Sample, once: Once, method: type[Quant], precision: str, task: str
) -> None:
    data = data_of(task)
    _, quantized, _ = once(small(task, quant=method(), precision=precision))
    assert parameter_count(quantized.model) == closed_form(data.inputs[0].values, HIDDEN, data.classes)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("method", "precision"), LOWERED, ids=of_pair)
def test_a_lowered_model_does_not_compute_what_the_float_model_does(
    small: Sample, once: Once, method: type[Quant], precision: str, task: str
) -> None:
    data = data_of(task)
    baseline, quantized, _ = once(small(task, quant=method(), precision=precision))
    assert not torch.equal(logits(quantized.model, data), logits(baseline.model, data))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("method", "precision"), [pair for pair in LOWERED if pair[0] not in (Qat, Amp)], ids=of_pair)
def test_lowering_without_training_changes_the_class_of_few_examples(
    small: Sample, once: Once, method: type[Quant], precision: str, task: str
) -> None:
    data = data_of(task)
    baseline, quantized, _ = once(small(task, quant=method(), precision=precision))
    assert disagreement(baseline, quantized, data) <= 0.05
    before, after = (predictions(one.model, data.test) for one in (baseline, quantized))
    gained, lost = flips(before, after, labels_of(data))
    assert len(gained) + len(lost) <= 0.05 * len(data.test)


@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_only_methods_that_train_report_a_training_and_only_those_that_calibrate_a_calibration(
    small: Sample, once: Once, method: type[Quant], precision: str
) -> None:
    _, quantized, _ = once(small(quant=method(), precision=precision))
    assert (quantized.training is not None) == (method in (Qat, Amp))
    assert (quantized.calibration_seconds is not None) == (method in (Static, FakeQuant))


@pytest.mark.parametrize("method", [Dynamic, Static, Qat], ids=of_pair)
def test_int8_makes_the_networks_of_the_lab_at_least_three_point_seven_times_smaller(
    sample: Sample, method: type[Quant]
) -> None:
    baseline, quantized, _ = quantize(sample(quant=method(), train=Train(epochs=1)))
    assert parameter_count(baseline.model) == closed_form(400, [1024, 1024], 10)
    # A weight takes 1 byte instead of 4; a bias stays float, and a channel has a scale and a zero point.
    assert 3.7 < state_bytes(baseline.model) / state_bytes(quantized.model) < 4.0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_casting_halves_the_bytes(sample: Sample, precision: str) -> None:
    baseline, quantized, _ = quantize(sample(quant=NoQuant(), precision=precision, train=Train(epochs=1)))
    assert state_bytes(baseline.model) / state_bytes(quantized.model) == pytest.approx(2.0, rel=0.001)


# Static and its settings


NO_VNNI = pytest.mark.filterwarnings("ignore:Default qconfig of oneDNN backend:UserWarning")  # on CPUs without VNNI
REDUCED = pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")  # once


@NO_VNNI
@pytest.mark.parametrize(
    ("engine", "weights", "observer"), list(product(ENGINES, Granularity, Observer)), ids=lambda value: str(value)
)
def test_static_works_with_every_engine_granularity_and_observer(
    small: Sample, engine: Engine, weights: Granularity, observer: Observer
) -> None:
    data = data_of("mnist")
    quant = Static(engine=engine, weights=weights, observer=observer)
    baseline, quantized, evidence = quantize(small(quant=quant))
    assert {layer.precision for layer in evidence.layers} == {"int8"}
    assert {operator.precision for operator in evidence.operators} == {"int8"}
    assert {(layer.qscheme, layer.engine) for layer in evidence.layers} == {(f"{weights.value}_affine", engine.value)}
    assert disagreement(baseline, quantized, data) <= 0.05


@REDUCED
@NO_VNNI
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", [Dynamic, Qat], ids=of_pair)
def test_dynamic_and_qat_work_with_every_engine(small: Sample, method: type[Dynamic | Qat], engine: Engine) -> None:
    _, _, evidence = quantize(small(quant=method(engine=engine)))
    assert {layer.precision for layer in evidence.layers} == {"int8"}
    assert {layer.engine for layer in evidence.layers} == {engine.value}
    assert {operator.precision for operator in evidence.operators} == {"int8"}


@pytest.mark.parametrize("method", [Static, Qat], ids=of_pair)
def test_granularity_says_how_many_scales_a_layer_has(small: Sample, method: type[Static | Qat]) -> None:
    schemes = {}
    for weights in Granularity:
        _, quantized, _ = quantize(small(quant=method(weights=weights)))
        schemes[weights] = [layer.weight() for layer in int8_layers(quantized.model)]
    per_channel, per_tensor = schemes[Granularity.per_channel], schemes[Granularity.per_tensor]
    assert [weight.q_per_channel_scales().shape for weight in per_channel] == [(16,), (10,)]
    assert [weight.qscheme() for weight in per_tensor] == [torch.per_tensor_affine] * 2


def test_the_range_of_the_inputs_is_that_of_the_calibration_examples(small: Sample) -> None:
    experiment = small(quant=Static(observer=Observer.minmax))
    data = data_of("mnist")
    _, quantized, _ = quantize(experiment)
    (seen,) = data.calibration.first(len(data.calibration))
    # 8 bits span the range, 7 where the engine leaves one unused; the range covers zero.
    spans = [(max(seen.max().item(), 0.0) - min(seen.min().item(), 0.0)) / steps for steps in (255, 127)]
    (scale,) = (value for name, value in quantized.model.state_dict().items() if name.endswith("input_scale_0"))
    assert any(scale.item() == pytest.approx(span, rel=1e-5) for span in spans)


@pytest.mark.parametrize("calibration", ["train", "test"])
def test_the_split_that_was_calibrated_on_is_reported(small: Sample, calibration: str) -> None:
    outcome = run(small(quant=Static(calibration=calibration, calibration_examples=100)))  # type: ignore[arg-type]
    assert outcome.report.calibration == calibration
    assert outcome.report.data.calibration == 100
    assert outcome.report.calibration_seconds is not None


def test_a_method_that_does_not_calibrate_reports_no_split(small: Sample) -> None:
    report = run(small(quant=Dynamic())).report
    assert report.calibration is None
    assert report.calibration_seconds is None


# The engine


@REDUCED
@NO_VNNI
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", [Dynamic, Static, Qat], ids=of_pair)
def test_the_engine_of_the_process_is_put_back(
    small: Sample, method: type[Dynamic | Static | Qat], engine: Engine
) -> None:
    before = torch.backends.quantized.engine
    try:
        for ours in ENGINES:
            torch.backends.quantized.engine = ours.value
            quantize(small(quant=method(engine=engine)))
            assert torch.backends.quantized.engine == ours.value
    finally:
        torch.backends.quantized.engine = before


@pytest.mark.parametrize("method", [Dynamic, Static, Qat], ids=of_pair)
def test_an_engine_that_the_machine_lacks_is_an_error_that_lists_those_it_has(
    small: Sample, method: type[Dynamic | Static | Qat], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, data = small(quant=method(engine=Engine.x86)), data_of("mnist")
    baseline = trained(experiment, data)
    machine = SimpleNamespace(supported_engines=["none", "qnnpack", "onednn"], engine="qnnpack")
    monkeypatch.setattr(torch.backends, "quantized", machine)
    with pytest.raises(
        QuantizationError, match=r"quant\.engine must be supported .* got x86; use one of qnnpack, onednn$"
    ):
        quantized_by(experiment, data, baseline)
    assert machine.engine == "qnnpack"
    with pytest.raises(QuantizationError, match=r"quant\.engine must be supported .* got x86"):
        run(experiment)


# Nothing quantized is an error, and without a result there is no speedup


@dataclasses.dataclass
class OnlyPairs(Model):
    """A network of the one layer that no method has int8 kernels for."""

    name: ClassVar[str] = "pairs"
    implementation: ClassVar[str] = __name__
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.features),)


def build(model: OnlyPairs, inputs: tuple[InputSpec, ...], classes: int) -> nn.Module:
    return Pairs(inputs[0].values, classes)


class Pairs(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(inputs, inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.bilinear(x, x)
        return logits


@pytest.mark.parametrize("method", [Dynamic, Static, Qat], ids=of_pair)
def test_a_network_without_a_layer_that_the_method_handles_ends_the_run(
    sample: Sample, method: type[Dynamic | Static | Qat]
) -> None:
    experiment = sample(model=OnlyPairs(), quant=method(), train=Train(epochs=1))
    with pytest.raises(QuantizationError, match=r"must have int8 layers, it has (fp32|none); the method handles"):
        run(experiment)


def test_a_method_that_finds_no_layer_to_lower_ends_the_run(small: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fx, "_mapping", lambda *parts: QConfigMapping())
    monkeypatch.setattr(eager, "quantize_dynamic", lambda model, *_: model)
    for quant in (Dynamic(flow=Flow.eager), Static(flow=Flow.fx), Qat(flow=Flow.fx)):
        with pytest.raises(QuantizationError, match="must have int8 layers, it has fp32"):
            run(small(quant=quant))


@pytest.mark.parametrize("stripped", [lambda prepared: prepared, convert_to_reference_fx], ids=["prepared", "float"])
@pytest.mark.parametrize("method", [Static, Qat], ids=of_pair)
def test_a_model_whose_int8_part_is_stripped_ends_the_run(
    small: Sample,
    monkeypatch: pytest.MonkeyPatch,
    method: type[Static | Qat],
    stripped: Callable[[nn.Module], nn.Module],
) -> None:
    monkeypatch.setattr(fx, "convert", lambda prepared, target: stripped(getattr(prepared.eval(), "model", prepared)))
    with pytest.raises(QuantizationError, match="must have int8 layers, it has fp32"):
        run(small(quant=method(flow=Flow.fx)))


def test_a_run_that_kept_its_promise_reports_speedups(small: Sample) -> None:
    report = run(small(quant=Static())).report
    assert report.comparison is not None
    assert [one.batch_size for one in report.comparison.speedups] == [1, 8]
    assert report.quantized is not None
    assert report.quantized.evidence.mac_share("int8") == 1.0
    assert report.flops == 2 * (400 * 16 + 16 * 10)


# Quantization-aware training


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Copies of the networks that are handed to `convert`, with the weights and ranges that training left."""
    seen: list[nn.Module] = []
    convert = fx.convert

    def keeping(prepared: nn.Module, target: str) -> nn.Module:
        seen.append(copy.deepcopy(prepared))
        return convert(prepared, target)

    monkeypatch.setattr(fx, "convert", keeping)
    monkeypatch.setattr(qat, "skeleton", lambda option, network, form: network)  # converted to see whether it runs
    return seen


def weights_of(model: nn.Module) -> list[Tensor]:
    return [tensor for name, tensor in model.state_dict().items() if name.endswith(("0.weight", "2.weight"))]


def test_qat_moves_the_weights_but_not_far_from_the_trained_model(small: Sample, converted: list[nn.Module]) -> None:
    baseline, _, _ = quantize(small(quant=Qat()))
    float_weights, weights = weights_of(baseline.model), weights_of(converted[0])
    assert [weight.shape for weight in weights] == [weight.shape for weight in float_weights] == [(16, 400), (10, 16)]
    for before, after in zip(float_weights, weights, strict=True):
        assert not torch.equal(before, after)
        # 23 steps of a tenth of 0.01; one of Adam's is at most (1 - 0.9) / sqrt(1 - 0.999) = 3.2 learning rates long.
        assert (before - after).abs().max() < 23 * 0.001 * 3.2


def test_qat_from_scratch_ends_elsewhere_than_from_the_trained_model(small: Sample, converted: list[nn.Module]) -> None:
    quantize(small(quant=Qat(start=Start.trained)))
    quantize(small(quant=Qat(start=Start.scratch)))
    trained, scratch = (weights_of(model) for model in converted)
    assert not any(torch.equal(one, other) for one, other in zip(trained, scratch, strict=True))


def test_qat_from_scratch_begins_as_the_float_model_did(small: Sample, converted: list[nn.Module]) -> None:
    tiny = 1e-12  # a learning rate at which nothing moves
    baseline, _, _ = quantize(small(quant=Qat(start=Start.scratch, epochs=1, learning_rate=tiny)))
    for fresh, after in zip(weights_of(baseline.fresh()), weights_of(converted[0]), strict=True):
        torch.testing.assert_close(after, fresh, rtol=0, atol=1e-9)


@pytest.mark.parametrize("again", [False, True], ids=["trained", "from the cache"])
@pytest.mark.parametrize("freeze_after", [0.1, 0.5, 0.99])
def test_the_observers_of_qat_are_frozen_at_the_end(
    small: Sample, converted: list[nn.Module], freeze_after: float, again: bool
) -> None:
    for _ in range(1 + again):
        quantize(small(quant=Qat(freeze_after=freeze_after)))
    switches = [value for name, value in converted[-1].state_dict().items() if name.endswith("observer_enabled")]
    # Two weights, the input, and what each of the two layers gives.
    assert len(switches) == 5
    assert all(value.item() == 0 for value in switches)


def test_the_weights_of_qat_lie_on_the_grid_that_it_trained_with(small: Sample, converted: list[nn.Module]) -> None:
    _, quantized, _ = quantize(small(quant=Qat()))
    trained = cast(nn.Module, converted[0].model)
    state = trained.state_dict()
    scales = [state[f"layers.{index}.weight_fake_quant.scale"] for index in (0, 2)]
    layers = [layer.weight() for layer in int8_layers(quantized.model)]
    for scale, layer, weight in zip(scales, layers, weights_of(trained), strict=True):
        torch.testing.assert_close(layer.q_per_channel_scales().float(), scale)
        steps = (weight / scale[:, None]).round().clamp(-128, 127)
        assert torch.equal(layer.int_repr().float(), steps)


def test_qat_trains_one_pass_from_the_trained_model_and_all_of_them_from_scratch(small: Sample) -> None:
    _, from_trained, _ = quantize(small(quant=Qat(start=Start.trained)))
    _, from_scratch, _ = quantize(small(quant=Qat(start=Start.scratch)))
    assert from_trained.training is not None
    assert from_scratch.training is not None
    assert from_trained.training.epochs == 1
    assert from_scratch.training.epochs == 3


def test_qat_learns(small: Sample) -> None:
    data = data_of("mnist")
    for start in Start:
        _, quantized, _ = quantize(small(quant=Qat(start=start)))
        right = (predictions(quantized.model, data.test) == labels_of(data)).float().mean()
        assert right > 0.7, "guessing is right in a tenth of the cases"

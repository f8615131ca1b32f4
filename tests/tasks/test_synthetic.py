"""Random inputs without labels: nothing is trained, and what needs no label is measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from quantexp import models, tasks
from quantexp.config import (
    METHODS,
    Amp,
    ByLayer,
    CustomModel,
    DataRequest,
    DataSource,
    Experiment,
    FakeQuant,
    Flow,
    Kind,
    Lenet5,
    Mlp,
    Mnist,
    Model,
    NoQuant,
    Paired,
    Qat,
    Quant,
    Sst2,
    Static,
    Task,
    Train,
)
from quantexp.mission import RunResult, load, run
from quantexp.quant.inspection.evidence import operators
from quantexp.results import parse_report
from quantexp.system.errors import ConfigError, TrainingError
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import trained
from quantexp.training.loop import fit
from tests.runs import quantized, same_weights


def drawn(task: Task, kind: Kind = Kind.features, **request: Any) -> TaskData:
    return tasks.load(task, kind, DataRequest(DataSource.synthetic, **request))


@pytest.fixture
def synthetic(tmp_path: Path) -> Callable[..., Experiment]:
    """Build an experiment on random inputs, with a cache of its own and the least benchmark."""

    def build(**parts: Any) -> Experiment:
        settings = {
            "data": "synthetic",
            "cache_dir": str(tmp_path / "cache"),
            "benchmark": Paired(placements=2, seconds=0.02),
            "batch_size": [1],
        }
        return Experiment(**{**settings, **parts})

    return build


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training fail, whoever begins it."""

    def fit(*arguments: object, **settings: object) -> None:
        raise AssertionError("nothing should be trained")

    for module in ("training.baseline", "quant.methods.amp", "quant.methods.qat"):
        monkeypatch.setattr(f"quantexp.{module}.fit", fit)


# The examples


@pytest.mark.parametrize(
    ("task", "kind", "shape"),
    [(Mnist(crop=32), Kind.image, (1, 32, 32)), (Mnist(), Kind.features, (400,)), (Sst2(), Kind.features, (5000,))],
    ids=["mnist images", "mnist", "sst2"],
)
def test_they_have_the_shape_and_the_range_of_the_task_without_its_files(
    task: Task, kind: Kind, shape: tuple[int, ...]
) -> None:
    data = drawn(task, kind, data_dir="/nowhere")
    (values,) = data.test.first(len(data.test))
    assert values.shape == (1024, *shape)
    (spec,) = data.inputs
    assert spec.low is not None
    assert spec.high is not None
    assert spec.low <= values.min() < values.max() <= spec.high
    assert data.train.labels is data.calibration.labels is data.test.labels is None
    assert (data.objective.name, data.origin) == ("unlabelled", "random inputs without labels")


@pytest.mark.parametrize("seed", [0, 1, 2**32])
def test_examples_that_calibrate_and_those_that_are_measured_are_two_disjoint_draws(seed: int) -> None:
    data = drawn(Mnist(), seed=seed, validation_seed=seed)
    calibrated, measured = (
        {tuple(row) for row in split.first(512)[0].tolist()} for split in (data.calibration, data.test)
    )
    assert (len(calibrated), len(measured)) == (512, 512)
    assert not calibrated & measured
    assert calibrated <= {tuple(row) for row in data.train.first(len(data.train))[0].tolist()}


def test_the_seed_of_the_run_decides_all_that_is_drawn() -> None:
    def of(seed: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        data = drawn(Mnist(), seed=seed, validation_seed=seed)
        return data.calibration.first(8)[0], data.test.first(8)[0], data.fingerprint

    for one, again, other in zip(of(3), of(3), of(4), strict=True):
        if isinstance(one, str):
            assert one == again != other
        else:
            assert torch.equal(one, again)
            assert not torch.equal(one, other)


def test_what_is_measured_is_drawn_the_same_whatever_calibrates() -> None:
    first, second = drawn(Mnist(), calibration_examples=7), drawn(Mnist(), calibration_examples=2000)
    assert torch.equal(first.test.first(1024)[0], second.test.first(1024)[0])
    assert (len(first.calibration), len(second.calibration)) == (7, 2000)


# The float network


def test_nothing_is_trained_and_nothing_is_kept(
    synthetic: Callable[..., Experiment], untrained: None, tmp_path: Path
) -> None:
    experiment = synthetic(seed=3)
    data = load(experiment)
    baseline, again = trained(experiment, data), trained(experiment, data)
    assert same_weights(baseline.model, again.model)
    assert same_weights(baseline.model, baseline.fresh()), "its weights are those that training would begin with"
    assert not same_weights(baseline.model, trained(synthetic(seed=4), data).model)
    assert baseline.training is None
    assert not baseline.can_train
    assert not baseline.model.training
    assert not (tmp_path / "cache").exists()


NORMED = """
from torch import nn

class Deep(nn.Module):
    takes = "features"

    def __init__(self, inputs, classes, norm=True):
        super().__init__()
        width = inputs[0].values
        layers = []
        for _ in range(12):
            normed = [nn.BatchNorm1d(64)] if norm else []
            layers += [nn.Linear(width, 64, bias=False), *normed, nn.ReLU(), nn.Dropout(0.2)]
            width = 64
        self.layers = nn.Sequential(*layers, nn.Linear(width, classes, bias=False))

    def forward(self, values):
        return self.layers(values)
"""


KEPT = """
from torch import nn


class Kept(nn.Sequential):
    def __init__(self, inputs, classes):
        norm = nn.BatchNorm1d(8)
        norm.running_mean.fill_(0.5)
        super().__init__(nn.Linear(inputs, 8), norm, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))
"""


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., CustomModel]]:
    """A network of twelve layers, each with batch normalisation."""
    (tmp_path / "own_deep.py").write_text(NORMED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda **arguments: CustomModel(target="own_deep.Deep", arguments=arguments)
    sys.modules.pop("own_deep", None)


def test_batch_normalisation_sees_a_few_batches_so_that_outputs_do_not_vanish(
    synthetic: Callable[..., Experiment], deep: Callable[..., CustomModel]
) -> None:
    experiment = synthetic(model=deep())
    data = load(experiment)
    model = trained(experiment, data).model
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [4] * 12
    assert {norm.momentum for norm in norms} == {0.1}, "as it was"
    assert all(norm.running_var.min() < 0.9 for norm in norms[1:])
    with torch.no_grad():
        settled = model(*data.test.first(256))
        fresh = trained(experiment, data).fresh().eval()(*data.test.first(256))
        without = trained(synthetic(model=deep(norm=False)), data).model(*data.test.first(256))
    assert settled.std(0).mean() > 0.05
    assert fresh.std(0).mean() < 0.01 * settled.std(0).mean()
    assert without.std(0).mean() < 0.01 * settled.std(0).mean()


def test_statistics_that_came_with_the_network_are_kept(
    synthetic: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_kept.py").write_text(KEPT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    experiment = synthetic(model=CustomModel(target="own_kept.Kept"))
    model = trained(experiment, load(experiment)).model
    kept, settled = (module for module in model.modules() if isinstance(module, nn.BatchNorm1d))
    assert set(kept.running_mean.tolist()) == {0.5}
    assert int(kept.num_batches_tracked) == 0
    assert int(settled.num_batches_tracked) == 4
    sys.modules.pop("own_kept", None)


def test_statistics_are_the_mean_over_the_batches_and_the_same_each_time(
    synthetic: Callable[..., Experiment], deep: Callable[..., CustomModel]
) -> None:
    experiment = synthetic(model=deep())
    data = load(experiment)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = trained(experiment, data).model
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same_weights(first, trained(experiment, data).model)
    linear, norm = first.layers[0], first.layers[1]
    with torch.no_grad():
        outputs = [linear(*data.train.first(64, skipping=64 * number)) for number in range(4)]
    torch.testing.assert_close(norm.running_mean, torch.stack([batch.mean(0) for batch in outputs]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([batch.var(0) for batch in outputs]).mean(0))


def test_weights_of_a_file_take_the_place_of_random_ones(
    synthetic: Callable[..., Experiment], untrained: None, tmp_path: Path
) -> None:
    plain = synthetic(model=Mlp(hidden=[8]))
    data = load(plain)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        own = models.build(Mlp(hidden=[8]), data.inputs, data.classes)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    checkpoint = Train(checkpoint=str(tmp_path / "own.safetensors"))
    taken = trained(synthetic(model=Mlp(hidden=[8]), train=checkpoint), data)
    assert same_weights(taken.model, own)
    assert not same_weights(taken.model, trained(plain, data).model)


def test_training_is_refused_with_the_reason(synthetic: Callable[..., Experiment]) -> None:
    experiment = synthetic()
    data = load(experiment)
    with pytest.raises(TrainingError, match=r"training needs labels, .* use data=full or data=sample"):
        fit(trained(experiment, data).fresh(), data.train, data.objective, Train(), seed=0, label="test")


# What is refused before anything starts


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "qat": ({"quant": Qat()}, "quant=qat trains, and data=synthetic has no labels to train on; use data=sample or"),
    "validation": ({"validation": 0.1}, "data=synthetic trains nothing, .* got validation=0.1; leave it out"),
    "evaluation": ({"evaluation": "validation"}, "has no validation split, got evaluation=validation; leave it out"),
}


@pytest.mark.parametrize(("parts", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_needs_labels_is_refused_before_anything_starts(
    synthetic: Callable[..., Experiment], parts: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        synthetic(**parts)
    assert len(error.value.faults) == 1


def test_a_sweep_can_leave_out_what_needs_labels(synthetic: Callable[..., Experiment]) -> None:
    with pytest.raises(ConfigError) as error:
        synthetic(quant=Qat())
    assert [fault.rule for fault in error.value.mismatches] == [
        "quant=qat trains, and data=synthetic has no labels to train on"
    ]


# The whole way


def check(result: RunResult, quant: Quant) -> None:
    """What every run on random inputs leaves."""
    report = result.report
    assert (report.data.source, report.objective) == ("synthetic", "unlabelled")
    assert (report.data.train, report.data.validation, report.data.test) == (0, 0, 1024)
    assert report.float_training is report.quantized_training is None
    networks = [report.baseline, *([report.quantized] if report.quantized else [])]
    for network in networks:
        assert network.quality is None
        assert network.loss is None
        assert network.train_seconds is None
        assert network.size.state_bytes > 0
        assert [latency.batch_size for latency in network.latency] == ([1] if quant.timed else [])
    if quant.name == "none" and report.precision == "fp32":
        assert report.comparison is None
    else:
        assert report.comparison is not None
        assert report.comparison.quality is None
        assert 0 < report.comparison.agreement <= 1
        assert report.comparison.output_sqnr_db is None or report.comparison.output_sqnr_db > 0
    assert parse_report(report.to_json().encode()) == report


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("model", [Mlp, Lenet5], ids=lambda model: model.name)
@pytest.mark.parametrize("task", [Mnist, Sst2], ids=lambda task: task.name)
def test_every_task_network_and_method_runs_or_is_refused_at_once(
    synthetic: Callable[..., Experiment], untrained: None, task: type[Task], model: type[Model], method: type[Quant]
) -> None:
    refused = method is Qat or (task is Sst2 and model is Lenet5)
    try:
        experiment = synthetic(task=task(), model=model(), quant=method())
    except ConfigError as error:
        assert refused
        assert error.mismatches, "nothing is wrong with a value by itself"
        return
    assert not refused
    check(run(experiment), experiment.quant)


OTHERS = [
    pytest.param(method, flow, precision, id=f"{method.name}-{flow.value if flow else ''}-{precision}")
    for method in METHODS
    for flow in (method.portable_flows() if issubclass(method, ByLayer) else (None,))
    for precision in (method.flows[flow] if issubclass(method, ByLayer) and flow else method.precisions)
    if method is not Qat
]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("method", "flow", "precision"), OTHERS)
def test_every_flow_and_precision_runs(
    synthetic: Callable[..., Experiment], untrained: None, method: type[Quant], flow: Flow | None, precision: str
) -> None:
    quant = method(flow=flow) if flow else method()  # type: ignore[call-arg]
    check(run(synthetic(task=Sst2(vocabulary=320), model=Mlp(hidden=[64]), quant=quant, precision=precision)), quant)


@pytest.mark.parametrize("precision", Amp.precisions)
def test_amp_runs_the_random_network_under_autocast(
    synthetic: Callable[..., Experiment], untrained: None, precision: str
) -> None:
    experiment = synthetic(quant=Amp(), precision=precision, model=Mlp(hidden=[8]))
    data = load(experiment)
    baseline = trained(experiment, data)
    made = quantized(experiment, data, baseline)
    assert made.training is None
    assert same_weights(made.model.model, baseline.model)
    assert made.model.model is not baseline.model
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    batch = data.test.first(32)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        expected = baseline.model(*batch).float()
    with torch.no_grad():
        assert torch.equal(made.model(*batch), expected)
    assert {operator.precision for operator in operators(made.model, batch)} == {precision}


def test_more_bits_are_closer_to_float(synthetic: Callable[..., Experiment]) -> None:
    def sqnr(bits: int) -> float:
        report = run(synthetic(model=Mlp(hidden=[64]), quant=FakeQuant(weight_bits=bits, activation_bits=8))).report
        assert report.comparison is not None
        assert report.comparison.output_sqnr_db is not None
        return report.comparison.output_sqnr_db

    found = [sqnr(bits) for bits in (2, 4, 8)]
    assert found == sorted(found)
    assert found[2] > 20


def test_a_run_is_the_same_each_time_but_for_its_times(synthetic: Callable[..., Experiment]) -> None:
    def figures(seed: int) -> tuple[Any, ...]:
        report = run(synthetic(model=Mlp(hidden=[64]), quant=Static(), seed=seed)).report
        assert report.comparison is not None
        return report.comparison.agreement, report.comparison.output_sqnr_db, report.data.fingerprint

    assert figures(0) == figures(0) != figures(1)


def test_a_float_network_alone_is_measured(synthetic: Callable[..., Experiment]) -> None:
    result = run(synthetic(quant=NoQuant(), model=Mlp(hidden=[8])))
    assert result.report.quantized is None
    check(result, NoQuant())

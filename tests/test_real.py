"""The real data sets, where QUANTEXP_DATA_DIR names them: what is read, and what the lab's recipe reaches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantexp.config import (
    Amp,
    DataRequest,
    Dynamic,
    Experiment,
    Flow,
    Kind,
    Mnist,
    NoQuant,
    Paired,
    Qat,
    Quant,
    Sst2,
    Static,
)
from quantexp.mission import RunResult, run
from quantexp.quant.inspection.layers import held_weights
from quantexp.system.environment import describe
from quantexp.tasks import mnist, sst2

pytestmark = pytest.mark.slow  # those with `real` too are part of CI

TASKS = {"mnist": Mnist, "sst2": Sst2}
FLOWS = {"mnist": Flow.fx, "sst2": Flow.pt2e}
OF_FLOWS = [("mnist", FLOWS["mnist"]), pytest.param("sst2", FLOWS["sst2"], marks=pytest.mark.exhaustive)]
FLOAT_AT_LEAST = {"mnist": 0.968, "sst2": 0.795}
DROP_AT_MOST = {"mnist": 0.005, "sst2": 0.010}
QAT_BELOW_STATIC_AT_MOST = {"mnist": 0.003, "sst2": 0.010}


@pytest.mark.real
def test_mnist_is_read_whole_and_normalised(real_data: str) -> None:
    data = mnist.load(Mnist(crop=28), Kind.features, DataRequest(data_dir=real_data))
    assert (len(data.train), len(data.test), data.inputs[0].shape) == (60_000, 10_000, (784,))
    assert data.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    (pixels,) = data.train.inputs(torch.arange(60_000))
    assert abs(float(pixels.mean())) < 1e-3  # the published mean and deviation are those of these pixels
    assert abs(float(pixels.std()) - 1.0) < 1e-3


@pytest.mark.real
def test_sst2_is_read_whole_and_counts_its_words(real_data: str) -> None:
    data = sst2.load(Sst2(), Kind.features, DataRequest(data_dir=real_data))
    assert (len(data.train), len(data.test), data.inputs[0].shape) == (67_349, 872, (5000,))
    assert data.test.labels.bincount().tolist() == [428, 444]
    sentences = (Path(real_data) / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    (counts,) = data.test.inputs(torch.arange(len(data.test)))
    counted = counts.sum(1)
    words = torch.tensor([len(line.split("\t")[0].split()) for line in sentences])
    assert bool((counted <= words).all())
    assert float(counted.sum() / words.sum()) > 0.8  # the 5,000 most frequent words cover most of any text


@pytest.fixture(scope="module")
def outcome(real_data: str, cache: Path) -> Callable[..., RunResult]:
    """Run a method on a task once, in its own flow or another, however many tests look at it."""
    known: dict[str, RunResult] = {}

    def of(task: str, method: type[Quant], **levers: Flow) -> RunResult:
        quant, kind = method(**levers), TASKS[task]
        places = {"data_dir": real_data, "cache_dir": str(cache)}
        quick = Paired(placements=2, seconds=0.05)
        asked = f"{task} {quant}"
        if asked not in known:
            known[asked] = run(Experiment(task=kind(), quant=quant, benchmark=quick, **places))  # type: ignore[arg-type]
        return known[asked]

    return of


@pytest.mark.real
@pytest.mark.parametrize("task", TASKS)
def test_the_float_model_reaches_what_the_lab_reaches(outcome, task: str) -> None:
    assert outcome(task, NoQuant).report.result.quality.value >= FLOAT_AT_LEAST[task]


@pytest.mark.real
@pytest.mark.parametrize("method", [Dynamic, Static], ids=lambda method: method.name)
@pytest.mark.parametrize("task", TASKS)
def test_quantizing_after_training_costs_little_accuracy(outcome, task: str, method: type[Quant]) -> None:
    comparison = outcome(task, method).report.comparison
    assert abs(comparison.quality.drop) <= DROP_AT_MOST[task]


@pytest.mark.parametrize(("task", "flow"), OF_FLOWS)
def test_qat_does_not_fall_below_static(outcome, task: str, flow: Flow) -> None:
    static, qat = (outcome(task, method, flow=flow).report.result.quality.value for method in (Static, Qat))
    assert qat - static >= -QAT_BELOW_STATIC_AT_MOST[task]


@pytest.mark.parametrize(("task", "flow"), OF_FLOWS)
def test_qat_moves_the_weights(outcome, task: str, flow: Flow) -> None:
    def integers(method: type[Quant]) -> Tensor:
        first = next(held_weights(outcome(task, method, flow=flow).model)).weight
        return first.int_repr() if first.is_quantized else first

    static, qat = integers(Static), integers(Qat)
    assert static.dtype == qat.dtype == torch.int8
    assert float((static != qat).float().mean()) > 0.1


@pytest.mark.parametrize("method", [Dynamic, Static, Qat], ids=lambda method: method.name)
@pytest.mark.parametrize(("task", "flow"), OF_FLOWS)
def test_int8_files_are_nearly_four_times_smaller(outcome, task: str, flow: Flow, method: type[Quant]) -> None:
    assert outcome(task, method, flow=flow).report.comparison.compression >= 3.7


@pytest.mark.skipif(
    not {"avx512_bf16", "amx_bf16"} & set(describe().instruction_sets),
    reason="without bf16 instructions it takes hours",
)
def test_amp_trains_as_well_as_float_and_says_what_its_training_took(outcome) -> None:
    report = outcome("mnist", Amp).report
    assert report.result.quality.value >= FLOAT_AT_LEAST["mnist"]
    assert report.quantized_training.threads == report.float_training.threads
    assert report.comparison.training_ratio == pytest.approx(
        report.quantized_training.seconds / report.float_training.seconds
    )

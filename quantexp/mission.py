"""The whole mission in one function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from quantexp.benchmark.measure import Measurements, measure
from quantexp.config import Experiment, FakeQuant, Static
from quantexp.quant.inspection.evidence import float_operations, inspect
from quantexp.quant.inspection.promise import Quantized
from quantexp.results import Data, Report
from quantexp.runtimes.contestant import Subject
from quantexp.storage.stored import Recipe
from quantexp.system.environment import describe
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import Baseline


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: its report, the model that the report is about, and how to build that again."""

    report: Report
    model: nn.Module
    recipe: Recipe


def run(experiment: Experiment, weights: Path | None = None) -> RunResult:
    """Train or load, quantize, prove it, measure.

    Args:
        experiment: What is run.
        weights: Folder of the network that the run in `train.checkpoint` stored, where that names a run.

    Raises:
        QuantexpError: DataError, CacheError, TrainingError, QuantizationError or BenchmarkError.
    """
    data = experiment.load()
    baseline = experiment.baseline(data, weights)  # trained once, then loaded
    quantized = experiment.quant.apply(baseline, data, experiment.train, str(experiment.precision))
    subjects = _subjects(experiment, data, baseline, quantized)  # with what runs in which precision, or an error
    sizes = experiment.batch_size if experiment.quant.timed else []  # no kernels, no latency
    results = measure(subjects, data, experiment.benchmark, sizes)
    report = _report(experiment, data, baseline, quantized, results)
    return RunResult(report, subjects[-1].model, subjects[-1].recipe)


def _subjects(experiment: Experiment, data: TaskData, baseline: Baseline, quantized: Quantized) -> list[Subject]:
    """Return the float model, and behind it the quantized one if anything is lowered, each inspected."""
    recipe = Recipe.of(experiment, data)
    evidence = inspect(Quantized(baseline.model, None), data.example)
    float_recipe = replace(recipe, quant={"name": "none"}, precision="fp32")
    subjects = [Subject(baseline.model, "fp32", evidence, float_recipe, baseline.training)]
    if quantized.promise is not None:
        engine = experiment.quant.packs_for
        evidence = inspect(quantized, data.example, engine)
        precision = str(experiment.precision)
        subjects.append(Subject(quantized.model, precision, evidence, recipe, quantized.training, engine))
    return subjects


def _report(
    experiment: Experiment,
    data: TaskData,
    baseline: Baseline,
    quantized: Quantized,
    results: Measurements,
) -> Report:
    rows = (len(data.train), len(data.calibration), len(data.test), len(data.validation or ()))
    return Report(
        task=experiment.task.name,
        model=experiment.model.name,
        quant=experiment.quant.name,
        precision=str(experiment.precision),
        data=Data(experiment.data.value, data.origin, data.fingerprint, *rows, data.evaluation.value),
        seed=experiment.seed,
        host=describe().host,
        machine=describe().summary,
        benchmark=experiment.benchmark.name,
        threads=experiment.benchmark.threads,
        flops=float_operations(baseline.model, data.example),
        baseline=results.measured[0],
        quantized=results.measured[1] if results.comparison else None,
        compiled=results.compiled,
        comparison=results.comparison,
        conditions=results.conditions,
        calibration=experiment.quant.calibration.value if isinstance(experiment.quant, Static | FakeQuant) else None,
        calibration_seconds=quantized.calibration_seconds,
        float_training=baseline.training,
        quantized_training=quantized.training,
    )

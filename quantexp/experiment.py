"""The whole mission in one function."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from quantexp.baselines import Baseline
from quantexp.benchmark.measure import measure
from quantexp.benchmark.subject import Subject
from quantexp.config import Experiment, Static
from quantexp.quant.base import Quantized
from quantexp.quant.inspection import inspect
from quantexp.report.results import Comparison, Data, Evidence, Measured, Report
from quantexp.storage import Recipe
from quantexp.tasks.base import TaskData


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: its report, the model that the report is about, and how to build that again."""

    report: Report
    model: nn.Module
    recipe: Recipe


def run(experiment: Experiment) -> Outcome:
    """Train or load, quantize, prove it, measure.

    Raises:
        QuantexpError: DataError, CacheError, TrainingError, QuantizationError or BenchmarkError.
    """
    data = experiment.load()
    baseline = experiment.baseline(data)  # trained once, then loaded
    quantized = experiment.quant.apply(baseline, data, experiment.train, str(experiment.precision))
    evidence = inspect(quantized, data.example)  # what runs in which precision, or an error
    subjects = [Subject(baseline.model, "fp32", baseline.training)]
    if quantized.promise is not None:
        precision, engine = str(experiment.precision), experiment.quant.packs_for
        subjects.append(Subject(quantized.model, precision, quantized.training, engine))
    results = measure(subjects, data.test, experiment.benchmark, experiment.batch_size)
    report = _report(experiment, data, baseline, quantized, evidence, *results)
    return Outcome(report, quantized.model, Recipe.of(experiment, data))


def _report(
    experiment: Experiment,
    data: TaskData,
    baseline: Baseline,
    quantized: Quantized,
    evidence: Evidence,
    measured: tuple[Measured, ...],
    comparison: Comparison | None,
) -> Report:
    rows = (len(data.train), len(data.calibration), len(data.test))
    return Report(
        task=experiment.task.name,
        model=experiment.model.name,
        quant=experiment.quant.name,
        precision=str(experiment.precision),
        data=Data(experiment.data.value, data.origin, data.fingerprint, *rows),
        seed=experiment.seed,
        benchmark=experiment.benchmark.name,
        threads=experiment.benchmark.threads,
        baseline=measured[0],
        quantized=measured[1] if comparison else None,
        comparison=comparison,
        evidence=evidence,
        calibration=experiment.quant.calibration.value if isinstance(experiment.quant, Static) else None,
        calibration_seconds=quantized.calibration_seconds,
        float_training=baseline.training,
        quantized_training=quantized.training,
    )

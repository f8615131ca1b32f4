"""The whole mission in one function."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import nn

from quantexp.baselines import Baseline
from quantexp.benchmark.latency import time_models
from quantexp.benchmark.size import state_bytes
from quantexp.benchmark.statistics import accuracy, flips, speedup
from quantexp.config import Experiment, Static
from quantexp.environment import threads, usable_cores
from quantexp.quant.base import Quantized
from quantexp.quant.inspection import inspect, parameter_count
from quantexp.report.results import Comparison, Data, Evidence, Latency, Measured, Report, Training
from quantexp.storage import Recipe
from quantexp.tasks.base import TaskData
from quantexp.train import predict

log = logging.getLogger(__name__)


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
    baseline = experiment.baseline(data)
    quantized = experiment.quant.apply(baseline, data, experiment.train, str(experiment.precision))
    evidence = inspect(quantized, data.example)
    report = measure(experiment, data, baseline, quantized, evidence)
    return Outcome(report, quantized.model, Recipe.of(experiment, data))


def measure(
    experiment: Experiment, data: TaskData, baseline: Baseline, quantized: Quantized, evidence: Evidence
) -> Report:
    """Measure the float model and the quantized one: accuracy, size, latency against each other."""
    lowered = quantized.promise is not None
    models = [baseline.model, quantized.model] if lowered else [baseline.model]
    log.info("measure   accuracy on %s test examples", f"{len(data.test):,}")
    with threads(usable_cores()):
        predictions = [predict(model, data.test) for model in models]
    latencies = _latencies(models, experiment, data)
    trainings = [baseline.training, quantized.training]
    precisions = ["fp32", str(experiment.precision)]
    measured = [
        Measured(
            precision=precision,
            accuracy=accuracy(predicted, data.test.labels),
            size_bytes=state_bytes(model),
            parameters=parameter_count(model),
            latency=tuple(of_model),
            train_seconds=training.seconds if training else None,
        )
        for model, precision, predicted, of_model, training in zip(
            models, precisions, predictions, latencies, trainings, strict=False
        )
    ]
    comparison = None
    if lowered:
        gained, lost = flips(predictions[0], predictions[1], data.test.labels)
        comparison = Comparison(
            accuracy_drop=measured[0].accuracy.value - measured[1].accuracy.value,
            flips_gained=gained,
            flips_lost=lost,
            compression=measured[0].size_bytes / measured[1].size_bytes,
            speedups=tuple(speedup(*pair) for pair in zip(*latencies, strict=True)),
            training_ratio=_training_ratio(baseline.training, quantized.training),
        )
    return Report(
        task=experiment.task.name,
        model=experiment.model.name,
        quant=experiment.quant.name,
        precision=str(experiment.precision),
        data=Data(
            experiment.data.value,
            data.origin,
            data.fingerprint,
            len(data.train),
            len(data.calibration),
            len(data.test),
        ),
        seed=experiment.seed,
        benchmark=experiment.benchmark.name,
        threads=experiment.benchmark.threads,
        baseline=measured[0],
        quantized=measured[1] if lowered else None,
        comparison=comparison,
        evidence=evidence,
        calibration=experiment.quant.calibration.value if isinstance(experiment.quant, Static) else None,
        calibration_seconds=quantized.calibration_seconds,
        float_training=baseline.training,
        quantized_training=quantized.training,
    )


def _latencies(models: list[nn.Module], experiment: Experiment, data: TaskData) -> list[list[Latency]]:
    """Return the latencies of each model, one a batch size."""
    by_size = []
    with threads(experiment.benchmark.threads):
        for size in experiment.batch_size:
            log.info("measure   latency at batch %d (%s)", size, experiment.benchmark.name)
            by_size.append(time_models(models, data.test, size, experiment.benchmark))
    return [list(of_model) for of_model in zip(*by_size, strict=True)]


def _training_ratio(float_training: Training | None, training: Training | None) -> float | None:
    """Return quantized over float training time, None where the two do not compare."""
    if float_training is None or training is None or not training.comparable(float_training):
        return None
    return training.seconds / float_training.seconds

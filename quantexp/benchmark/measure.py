"""Everything that is measured on the models of one run, and what the comparison says."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from quantexp.benchmark.latency import time_models
from quantexp.benchmark.size import state_bytes
from quantexp.benchmark.statistics import accuracy, flips, speedup
from quantexp.benchmark.subject import Subject
from quantexp.config import Benchmark
from quantexp.environment import threads, usable_cores
from quantexp.quant.inspection import parameter_count
from quantexp.report.results import Comparison, Latency, Measured, Training
from quantexp.tasks.base import Split
from quantexp.train import predict

log = logging.getLogger(__name__)


def measure(
    subjects: Sequence[Subject], test: Split, benchmark: Benchmark, batch_sizes: Sequence[int]
) -> tuple[tuple[Measured, ...], Comparison | None]:
    """Measure the float model, and the quantized one against it if there are two subjects.

    Returns:
        What was measured on each subject, and the comparison of the second with the first.
    """
    log.info("measure   accuracy on %s test examples", f"{len(test):,}")
    with threads(usable_cores()):
        predictions = [predict(subject.model, test) for subject in subjects]
    latencies = _latencies(subjects, test, benchmark, batch_sizes)
    measured = tuple(
        Measured(
            precision=subject.precision,
            accuracy=accuracy(predicted, test.labels),
            size_bytes=state_bytes(subject.model),
            parameters=parameter_count(subject.model),
            latency=of_model,
            train_seconds=subject.training.seconds if subject.training else None,
        )
        for subject, predicted, of_model in zip(subjects, predictions, latencies, strict=True)
    )
    return measured, _compare(subjects, measured, predictions, test.labels) if len(subjects) == 2 else None


def _compare(
    subjects: Sequence[Subject], measured: Sequence[Measured], predictions: Sequence[Tensor], labels: Tensor
) -> Comparison:
    baseline, quantized = measured
    gained, lost = flips(predictions[0], predictions[1], labels)
    return Comparison(
        accuracy_drop=baseline.accuracy.value - quantized.accuracy.value,
        flips_gained=gained,
        flips_lost=lost,
        compression=baseline.size_bytes / quantized.size_bytes,
        speedups=tuple(speedup(*pair) for pair in zip(baseline.latency, quantized.latency, strict=True)),
        training_ratio=_training_ratio(*(subject.training for subject in subjects)),
    )


def _latencies(
    subjects: Sequence[Subject], test: Split, benchmark: Benchmark, batch_sizes: Sequence[int]
) -> list[tuple[Latency, ...]]:
    """Return the latencies of each subject, one a batch size."""
    by_size = []
    with threads(benchmark.threads):
        for size in batch_sizes:
            log.info("measure   latency at batch %d (%s)", size, benchmark.name)
            by_size.append(time_models(subjects, test, size, benchmark))
    return list(zip(*by_size, strict=True))


def _training_ratio(baseline: Training | None, quantized: Training | None) -> float | None:
    """Return quantized over float training time, None where the two do not compare."""
    if baseline is None or quantized is None or not quantized.comparable(baseline):
        return None
    return quantized.seconds / baseline.seconds

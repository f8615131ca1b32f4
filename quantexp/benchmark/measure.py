"""Everything that is measured on the models of one run, and what the comparison says."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from quantexp.benchmark.latency import Timed, Timing, time_models
from quantexp.benchmark.layers import layer_losses
from quantexp.benchmark.memory import memory_bytes
from quantexp.benchmark.reasons import Setting, not_faster
from quantexp.benchmark.size import size
from quantexp.config import Benchmark, FloatModel
from quantexp.quant.inspection.evidence import profile
from quantexp.results import (
    Comparison,
    Compiled,
    Conditions,
    Latency,
    Measured,
    NotFaster,
    Profile,
    Speedup,
    Training,
)
from quantexp.runtimes.compiled import CompiledModel, compiled
from quantexp.runtimes.contestant import Subject
from quantexp.statistics.figures import accuracy, detectable_drop, flips, loss, mcnemar, speedup, sqnr_db
from quantexp.storage import stored as storage
from quantexp.system.environment import describe, threads, usable_cores
from quantexp.tasks.data import Split, TaskData
from quantexp.training.loop import predict_logits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurements:
    """What `measure` found: on each subject, on the compiled float model, between them, and beside them."""

    measured: tuple[Measured, ...]
    compiled: Compiled | None
    comparison: Comparison | None
    conditions: tuple[Conditions, ...]


def measure(
    subjects: Sequence[Subject], data: TaskData, benchmark: Benchmark, batch_sizes: Sequence[int]
) -> Measurements:
    """Measure the float model, and the quantized one against it if there are two subjects.

    Without batch sizes nothing is timed.

    Raises:
        BenchmarkError: If a condition of the measurement cannot be set up.
    """
    log.info("measure   accuracy on %s %s examples", f"{len(data.evaluated):,}", data.evaluation)
    with threads(usable_cores()):
        logits = [predict_logits(subject.model, data.evaluated) for subject in subjects]
    with threads(benchmark.threads):
        timings, compilations = _timings(subjects, data, benchmark, batch_sizes)
        profiles = [_profiles(subject, data, batch_sizes) for subject in subjects]
    measured = []
    for index, subject in enumerate(subjects):
        with _stored(subject) as (folder, load_ms):
            measured.append(
                Measured(
                    precision=subject.precision,
                    accuracy=accuracy(logits[index].argmax(1), data.evaluated.labels, data.classes),
                    size=size(subject.model, folder),
                    evidence=subject.evidence,
                    profiles=profiles[index],
                    latency=tuple(timing.latencies[index] for timing in timings),
                    load_ms=load_ms,
                    train_seconds=subject.training.seconds if subject.training else None,
                    memory_bytes=_memory(folder, benchmark, batch_sizes),
                    loss=loss(logits[index], data.evaluated.labels),
                )
            )
    compiled_latency = tuple(timing.latencies[-1] for timing in timings) if compilations else ()
    comparison = None
    if len(subjects) == 2:
        comparison = _compare(subjects, measured, logits, data.evaluated, compiled_latency, benchmark)
    return Measurements(
        tuple(measured),
        _compiled(compilations, measured[0].latency, compiled_latency, benchmark.margin),
        comparison,
        tuple(timing.conditions for timing in timings),
    )


def _timings(
    subjects: Sequence[Subject], data: TaskData, benchmark: Benchmark, batch_sizes: Sequence[int]
) -> tuple[list[Timing], list[CompiledModel]]:
    """Return one timing a batch size, the compiled float model behind the subjects, and what was compiled."""
    timings, compilations = [], []
    for batch_size in batch_sizes:
        with ExitStack() as stack:
            contestants: list[Timed] = list(subjects)
            if FloatModel.compiled in benchmark.baselines:
                log.info("compile   the float model for batch %d", batch_size)
                inputs = data.evaluated.inputs(torch.arange(batch_size) % len(data.evaluated))
                compilations.append(stack.enter_context(compiled(subjects[0].model, inputs)))
                contestants.append(compilations[-1])
            log.info("measure   latency at batch %d (%s)", batch_size, benchmark.name)
            timings.append(time_models(contestants, data.evaluated, batch_size, benchmark))
    return timings, compilations


def _profiles(subject: Subject, data: TaskData, batch_sizes: Sequence[int]) -> tuple[Profile, ...]:
    return tuple(
        profile(subject.model, data.evaluated.inputs(torch.arange(batch_size) % len(data.evaluated)))
        for batch_size in batch_sizes
    )


@contextmanager
def _stored(subject: Subject) -> Iterator[tuple[Path | None, float | None]]:
    """Store the subject in a folder that is gone afterwards; also give the milliseconds to load it from there.

    Where no folder takes it both are None: a disk that is full costs these figures, not the run.
    """
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        try:
            storage.save(Path(scratch), subject.model, subject.recipe)
        except Exception as error:  # the writers of torch and safetensors raise errors of their own
            log.warning("the size of the stored model and its time to load stay unknown: %s", error)
            yield None, None
            return
        started = time.perf_counter()
        storage.load(scratch, trust=True)  # it is what this run stored
        yield Path(scratch), (time.perf_counter() - started) * 1e3


def _memory(folder: Path | None, benchmark: Benchmark, batch_sizes: Sequence[int]) -> int | None:
    wanted = benchmark.memory and folder and batch_sizes
    return memory_bytes(folder, max(batch_sizes), benchmark.threads) if folder and wanted else None


def _compiled(
    compilations: Sequence[CompiledModel], eager: Sequence[Latency], latency: tuple[Latency, ...], margin: float
) -> Compiled | None:
    if not compilations:
        return None
    return Compiled(
        compile_seconds=sum(one.compile_seconds for one in compilations),
        max_difference=max(one.max_difference for one in compilations),
        latency=latency,
        speedups=_speedups(eager, latency, margin),
    )


def _compare(
    subjects: Sequence[Subject],
    measured: Sequence[Measured],
    logits: Sequence[Tensor],
    examples: Split,
    compiled_latency: Sequence[Latency],
    benchmark: Benchmark,
) -> Comparison:
    baseline, quantized = measured
    predictions = [one.argmax(1) for one in logits]
    gained, lost = flips(predictions[0], predictions[1], examples.labels)
    with threads(usable_cores()):
        layers = layer_losses(subjects[0].model, subjects[1].model, quantized.evidence.layers, examples)
    speedups = _speedups(baseline.latency, quantized.latency, benchmark.margin)
    return Comparison(
        accuracy_drop=baseline.accuracy.value - quantized.accuracy.value,
        agreement=float((predictions[0] == predictions[1]).double().mean()),
        flips_gained=len(gained),
        flips_lost=len(lost),
        p_value=mcnemar(len(gained), len(lost)),
        detectable_drop=detectable_drop(len(gained), len(lost), len(examples)),
        compression=baseline.size.state_bytes / quantized.size.state_bytes,
        speedups=speedups,
        speedups_over_compiled=_speedups(compiled_latency, quantized.latency, benchmark.margin),
        not_faster=tuple(_not_faster(subjects[1], quantized, speedups, benchmark.threads)),
        training_ratio=_training_ratio(*(subject.training for subject in subjects)),
        output_sqnr_db=sqnr_db(logits[0], logits[1]),
        gained_examples=gained,
        lost_examples=lost,
        layers=layers,
    )


def _speedups(reference: Sequence[Latency], other: Sequence[Latency], margin: float) -> tuple[Speedup, ...]:
    return tuple(speedup(*pair, margin) for pair in zip(reference, other, strict=False))


def _not_faster(subject: Subject, measured: Measured, speedups: Sequence[Speedup], count: int) -> Iterator[NotFaster]:
    engine = subject.engine.value if subject.engine else None
    setting = Setting(subject.precision, engine, count, usable_cores(), describe().instruction_sets)
    for one, of_size in zip(speedups, measured.profiles, strict=True):
        if one.verdict == "faster" or (one.low is None and one.ratio > 1):
            continue
        larger = (other for other in speedups if other.batch_size > one.batch_size and other.verdict == "faster")
        reasons = not_faster(subject.evidence, of_size, setting, one.ratio, next(larger, None))
        yield NotFaster(one.batch_size, reasons)


def _training_ratio(baseline: Training | None, quantized: Training | None) -> float | None:
    """Return quantized over float training time, None where the two do not compare."""
    if baseline is None or quantized is None or not quantized.comparable(baseline):
        return None
    return quantized.seconds / baseline.seconds

"""Everything that is measured on the networks of one run, and what the comparison says."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from quantexp.benchmark.latency import Timing, time_models
from quantexp.benchmark.layers import layer_losses
from quantexp.benchmark.memory import memory_bytes
from quantexp.benchmark.reasons import Setting, not_faster
from quantexp.benchmark.size import size
from quantexp.config import Benchmark, Eager
from quantexp.quant.inspection.evidence import profile
from quantexp.results import (
    Comparison,
    Conditions,
    Evidence,
    Latency,
    Measured,
    NotFaster,
    OtherFloat,
    Profile,
    Speedup,
    Training,
)
from quantexp.runtimes import Prepared
from quantexp.runtimes.contestant import Contestant
from quantexp.statistics.sqnr import sqnr_db
from quantexp.statistics.timing import speedup
from quantexp.storage import stored
from quantexp.storage.recipe import Recipe
from quantexp.system.environment import describe, threads, usable_cores
from quantexp.tasks.data import TaskData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurements:
    """What `measure` found: on each of the two that are compared, between them, on others, and beside them."""

    measured: tuple[Measured, ...]
    comparison: Comparison | None
    others: tuple[OtherFloat, ...]
    conditions: tuple[Conditions, ...]


@dataclass(frozen=True)
class _Times:
    """Of all contestants at one batch size: what timing found, and how they were prepared for it."""

    timing: Timing
    prepared: tuple[Prepared, ...]


def measure(
    contestants: Sequence[Contestant],
    others: Sequence[Contestant],
    recipes: Sequence[Recipe],
    data: TaskData,
    benchmark: Benchmark,
    batch_sizes: Sequence[int],
) -> Measurements:
    """Measure the float network, and the quantized one against it if there are two contestants.

    Args:
        contestants: The float network, which is the reference, and behind it the quantized one if there is one.
        others: The float network in other runtimes; timed beside the contestants, and nothing else.
        recipes: How each contestant is built again from what is stored.
        data: Quality is measured on its evaluated split.
        benchmark: How latency is measured.
        batch_sizes: At which; none where nothing is timed.

    Raises:
        BenchmarkError: If a condition of the measurement cannot be set up.
    """
    log.info("measure   %s %s examples", f"{len(data.evaluated):,}", data.evaluation)
    given = [contestant.outputs(data.evaluated, benchmark.threads) for contestant in contestants]
    with threads(benchmark.threads):
        times = [_timed([*contestants, *others], data, batch_size, benchmark) for batch_size in batch_sizes]
        profiles = [_profiles(times, index, data) for index in range(len(contestants))]
    measured = []
    for index, contestant in enumerate(contestants):
        with _stored(contestant, recipes[index]) as (folder, load_ms):
            measured.append(
                Measured(
                    precision=contestant.precision,
                    quality=data.objective.quality(given[index], data.evaluated.labels),
                    size=size(contestant.network, folder),
                    evidence=contestant.evidence,
                    profiles=profiles[index],
                    latency=_latencies(times, index),
                    load_ms=load_ms,
                    train_seconds=contestant.training.seconds if contestant.training else None,
                    memory_bytes=_memory(folder, benchmark, batch_sizes),
                    loss=data.objective.mean_loss(given[index], data.evaluated.labels),
                    prepare_seconds=_prepare_seconds(times, index),
                    max_difference=_max_difference(times, index, contestant),
                )
            )
    comparison = _compare(contestants, measured, given, data, benchmark, times) if len(contestants) == 2 else None
    further = (_other(times, len(contestants) + at, one, measured, benchmark) for at, one in enumerate(others))
    return Measurements(tuple(measured), comparison, tuple(further), tuple(one.timing.conditions for one in times))


def _timed(contestants: Sequence[Contestant], data: TaskData, batch_size: int, benchmark: Benchmark) -> _Times:
    batch = data.evaluated.first(batch_size)
    prepared = tuple(contestant.prepared(batch) for contestant in contestants)
    log.info("measure   latency at batch %d (%s)", batch_size, benchmark.name)
    return _Times(time_models(prepared, data.evaluated, batch_size, benchmark), prepared)


def _latencies(times: Sequence[_Times], index: int) -> tuple[Latency, ...]:
    return tuple(one.timing.latencies[index] for one in times)


def _prepare_seconds(times: Sequence[_Times], index: int) -> float | None:
    known = [seconds for one in times if (seconds := one.prepared[index].seconds) is not None]
    return sum(known) if known else None


def _max_difference(times: Sequence[_Times], index: int, contestant: Contestant) -> float | None:
    prepared = (contestant.inspected, *(one.prepared[index] for one in times))
    known = [one.max_difference for one in prepared if one is not None and one.max_difference is not None]
    return max(known, default=None)


def _other(
    times: Sequence[_Times], index: int, one: Contestant, measured: Sequence[Measured], benchmark: Benchmark
) -> OtherFloat:
    latency, (reference, *quantized) = _latencies(times, index), [model.latency for model in measured]
    # A float network that runs elsewhere is compared with eager execution, as a quantized one is.
    compared = quantized or ([reference] if isinstance(one.runtime, Eager) else [])
    return OtherFloat(
        runtime=one.runtime.name,
        prepare_seconds=_prepare_seconds(times, index),
        max_difference=_max_difference(times, index, one),
        latency=latency,
        speedups=_speedups(reference, latency, benchmark.margin),
        quantized_speedups=_speedups(latency, compared[0], benchmark.margin) if compared else (),
    )


@torch.inference_mode()
def _profiles(times: Sequence[_Times], index: int, data: TaskData) -> tuple[Profile, ...]:
    found = []
    for one in times:
        batch = data.evaluated.first(
            one.timing.conditions.batch_size
        )  # made in inference mode, as those that are timed
        found.append(profile(one.prepared[index].network, batch))
    return tuple(found)


@contextmanager
def _stored(contestant: Contestant, recipe: Recipe) -> Iterator[tuple[Path | None, float | None]]:
    """Store a network in a folder that is gone afterwards; also give the milliseconds to load it from there.

    Where that fails both are None: a disk that is full costs these figures, not the run.
    """
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        try:
            stored.save(Path(scratch), contestant.network, recipe)
            started = time.perf_counter()
            stored.load(scratch, trust=True)  # it is what this run stored
            load_ms = (time.perf_counter() - started) * 1e3
        except Exception as error:  # the writers of torch and safetensors raise errors of their own
            log.warning("the size of the stored network and its time to load are not known: %s", error)
            yield None, None
            return
        yield Path(scratch), load_ms


def _memory(folder: Path | None, benchmark: Benchmark, batch_sizes: Sequence[int]) -> int | None:
    wanted = benchmark.memory and folder and batch_sizes
    return memory_bytes(folder, max(batch_sizes), benchmark.threads) if folder and wanted else None


def _compare(
    contestants: Sequence[Contestant],
    measured: Sequence[Measured],
    given: Sequence[Tensor],
    data: TaskData,
    benchmark: Benchmark,
    times: Sequence[_Times],
) -> Comparison:
    baseline, quantized = measured
    before, after = (data.objective.predictions(one) for one in given)
    with threads(usable_cores()):
        reference, other = (one.network for one in contestants)
        layers = layer_losses(reference, other, quantized.evidence.layers, data.evaluated)
    speedups = _speedups(baseline.latency, quantized.latency, benchmark.margin)
    return Comparison(
        quality=data.objective.change(given[0], given[1], data.evaluated.labels),
        agreement=float((before == after).double().mean()),
        compression=baseline.size.state_bytes / quantized.size.state_bytes,
        speedups=speedups,
        not_faster=tuple(_not_faster(contestants[1], quantized, speedups, times)),
        training_ratio=_training_ratio(*(one.training for one in contestants)),
        output_sqnr_db=sqnr_db(given[0], given[1]),
        layers=layers,
    )


def _speedups(reference: Sequence[Latency], other: Sequence[Latency], margin: float) -> tuple[Speedup, ...]:
    return tuple(speedup(*pair, margin) for pair in zip(reference, other, strict=False))


def _not_faster(
    contestant: Contestant, measured: Measured, speedups: Sequence[Speedup], times: Sequence[_Times]
) -> Iterator[NotFaster]:
    engine = contestant.engine.value if contestant.engine else None
    for one, of_size, timed in zip(speedups, measured.profiles, times, strict=True):
        if one.verdict == "faster" or (one.low is None and one.ratio > 1):
            continue
        count = timed.timing.conditions.threads
        setting = Setting(contestant.precision, engine, count, usable_cores(), describe().instruction_sets)
        larger = (other for other in speedups if other.batch_size > one.batch_size and other.verdict == "faster")
        evidence = _evidence(contestant, timed.prepared[1])
        yield NotFaster(one.batch_size, not_faster(evidence, of_size, setting, one.ratio, next(larger, None)))


def _evidence(contestant: Contestant, prepared: Prepared) -> Evidence:
    """Return the evidence at the batch size that a contestant was prepared for; in eager execution it is the same."""
    if prepared is contestant.inspected:
        return contestant.evidence
    return replace(contestant.evidence, operators=prepared.operators())


def _training_ratio(baseline: Training | None, quantized: Training | None) -> float | None:
    """Return quantized over float training time, None where the two do not compare."""
    if baseline is None or quantized is None or not quantized.comparable(baseline):
        return None
    return quantized.seconds / baseline.seconds

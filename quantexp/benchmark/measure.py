"""All measurements on the networks of one run, and their comparison."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from quantexp.benchmark import child, energy
from quantexp.benchmark.grouped import slow_convolutions
from quantexp.benchmark.latency import Timing, time_models
from quantexp.benchmark.layers import layer_losses
from quantexp.benchmark.memory import file_memory_bytes, memory_bytes
from quantexp.benchmark.reasons import Setting, not_faster
from quantexp.benchmark.size import size
from quantexp.benchmark.usage import system_reasons
from quantexp.config import Benchmark, Eager
from quantexp.results import (
    Comparison,
    Conditions,
    Evidence,
    Latency,
    Measured,
    NotFaster,
    OtherFloat,
    OtherQuantized,
    Profile,
    Speedup,
    Training,
)
from quantexp.runtimes.agreement import share_of_equal
from quantexp.runtimes.contestant import Contestant
from quantexp.runtimes.prepared import Prepared
from quantexp.statistics.energy import energy_ratios
from quantexp.statistics.sqnr import sqnr_db
from quantexp.statistics.timing import speedup
from quantexp.storage.kept import Kept
from quantexp.system.allocator import memory_kept
from quantexp.system.environment import describe, threads, usable_cores
from quantexp.system.garbage import collect_garbage
from quantexp.tasks.data import TaskData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurements:
    """The results of `measure`: of each network, of their comparison, of other runtimes, and the conditions."""

    measured: tuple[Measured, ...]
    comparison: Comparison | None
    others: tuple[OtherFloat, ...]
    others_quantized: tuple[OtherQuantized, ...]
    conditions: tuple[Conditions, ...]


@dataclass(frozen=True)
class _Times:
    """The timing of all contestants at one batch size, and the prepared networks."""

    timing: Timing
    prepared: tuple[Prepared, ...]


def measure(
    contestants: Sequence[Contestant],
    others: Sequence[Contestant],
    kept: Sequence[Kept],
    data: TaskData,
    benchmark: Benchmark,
    batch_sizes: Sequence[int],
) -> Measurements:
    """Measure the float network, and compare the quantized one with it if there are two contestants.

    Args:
        contestants: The float network, which is the reference, and the quantized network if there is one.
        others: The networks in other runtimes, those that were not inspected are only timed.
        kept: Each contestant and each of the others, stored and read back.
        data: Has the split on which quality is measured.
        benchmark: The protocol for latency.
        batch_sizes: The batch sizes for latency; empty if nothing is timed.

    Raises:
        BenchmarkError: If a condition of the measurement cannot be set up.
    """
    log.info("measure   %s %s examples", f"{len(data.evaluated):,}", data.evaluation)
    every = (*contestants, *others)
    inspected = [index for index, contestant in enumerate(every) if contestant.inspected]
    outputs = {index: every[index].outputs(data.evaluated, benchmark.threads) for index in inspected}
    agreements = {index: _agreement_with_eager(every[index], outputs[index], data) for index in inspected}
    with threads(benchmark.threads):
        times = _times(every, [one.folder for one in kept], data, benchmark, batch_sizes)
        profiles = {index: _profiles(times, index, data) for index in inspected}
    measured = {
        index: Measured(
            precision=contestant.precision,
            quality=data.objective.quality(outputs[index], data.evaluated.labels),
            size=size(contestant.network, kept[index].folder, contestant.exported),
            evidence=contestant.evidence,
            profiles=profiles[index],
            latency=_latencies(times, index),
            load_ms=_load_ms(contestant, kept[index]),
            train_seconds=contestant.training.seconds if contestant.training else None,
            memory_bytes=_memory(times, index, contestant, kept[index], data) if benchmark.memory else None,
            loss=data.objective.mean_loss(outputs[index], data.evaluated.labels),
            prepare_seconds=_prepare_seconds(times, index),
            max_difference=_max_difference(times, index, contestant),
            agreement_with_eager=agreements[index],
        )
        for index, contestant in enumerate(every)
        if index in outputs
    }
    own = tuple(measured[index] for index in range(len(contestants)))
    comparison = _compare(contestants, own, outputs, data, benchmark, times) if len(contestants) == 2 else None
    other_floats = tuple(
        _other(times, index, every[index], own, benchmark) for index in range(len(every)) if index not in measured
    )
    references = {contestants[0].runtime.name: own[0].latency}
    references |= {other.runtime: other.latency for other in other_floats}
    other_quantized = tuple(
        _other_quantized(every[index], found, references, benchmark)
        for index, found in measured.items()
        if index >= len(contestants)
    )
    conditions = tuple(timed.timing.conditions for timed in times)
    return Measurements(own, comparison, other_floats, other_quantized, conditions)


def _load_ms(contestant: Contestant, kept: Kept) -> float | None:
    """Return the time to load what is shipped: the file of the runtime, or the stored network; None if it was not."""
    if contestant.inspected is None or contestant.exported is None:
        return kept.load_ms
    started = time.perf_counter()
    contestant.inspected.copied()
    return 1e3 * (time.perf_counter() - started)


def _agreement_with_eager(contestant: Contestant, outputs: Tensor, data: TaskData) -> float | None:
    """Return the share of the evaluated examples with the same prediction as in eager execution, None in that."""
    runtime = contestant.runtime
    if isinstance(runtime, Eager):
        return None
    eager, found = (
        data.objective.predictions(logits) for logits in (contestant.eager_outputs(data.evaluated), outputs)
    )
    if data.evaluated.labels is None:  # of random weights, which decide for no class
        return float((eager == found).double().mean())
    what = f"the {contestant.precision} network in runtime {runtime.name}"
    return share_of_equal(what, eager, found, f"use runtime={Eager.name}")


def _times(
    contestants: Sequence[Contestant],
    folders: Sequence[Path | None],
    data: TaskData,
    benchmark: Benchmark,
    batch_sizes: Sequence[int],
) -> list[_Times]:
    """Prepare all contestants for each batch size and time them; `folders` has each stored network, if it could be."""
    names = [_name(contestant, contestants[0]) for contestant in contestants]
    by_network = [
        [contestant.prepared(data.evaluated.first(batch_size)) for batch_size in batch_sizes]
        for contestant in contestants
    ]
    prepared = list(zip(*by_network, strict=True))
    if prepared and child.needed(benchmark) and None not in folders:
        log.info("measure   latency on %d threads, in a child process", benchmark.threads)
        stored_networks = [
            child.Stored(folder, contestant.runtime, contestant.engine, [made.exported for made in networks])
            for folder, contestant, networks in zip(folders, contestants, by_network, strict=True)
            if folder is not None
        ]
        timings = child.time_stored(stored_networks, data.evaluated, batch_sizes, benchmark)
    else:
        timings = [
            _timed(networks, data, size, benchmark) for networks, size in zip(prepared, batch_sizes, strict=True)
        ]
    for timing in timings:
        energy.say_missing(timing.conditions.no_energy)
    return [_Times(_marked(timing, names), networks) for timing, networks in zip(timings, prepared, strict=True)]


def _name(contestant: Contestant, reference: Contestant) -> str:
    runtime = contestant.runtime.name
    where = "" if runtime == reference.runtime.name else f" in runtime {runtime}"
    return f"the {'float' if contestant.network is reference.network else 'quantized'} network{where}"


def _timed(networks: Sequence[Prepared], data: TaskData, batch_size: int, benchmark: Benchmark) -> Timing:
    log.info("measure   latency at batch %d (%s)", batch_size, benchmark.name)
    timing = time_models(networks, data.evaluated, batch_size, benchmark)
    collect_garbage()  # of the last copies
    return timing


def _marked(timing: Timing, names: Sequence[str]) -> Timing:
    """Mark a timing as unstable if the system took much of the CPU time of a network; `names` has all of them."""
    unstable = (*timing.conditions.unstable, *system_reasons(timing.latencies, names))
    return replace(timing, conditions=replace(timing.conditions, unstable=unstable))


def _latencies(times: Sequence[_Times], index: int) -> tuple[Latency, ...]:
    return tuple(timed.timing.latencies[index] for timed in times)


def _prepare_seconds(times: Sequence[_Times], index: int) -> float | None:
    known = [seconds for timed in times if (seconds := timed.prepared[index].seconds) is not None]
    return sum(known) if known else None


def _max_difference(times: Sequence[_Times], index: int, contestant: Contestant) -> float | None:
    networks = (contestant.inspected, *(timed.prepared[index] for timed in times))
    differences = (network.max_difference for network in networks if network is not None)
    return max((difference for difference in differences if difference is not None), default=None)


def _other(
    times: Sequence[_Times], index: int, contestant: Contestant, measured: Sequence[Measured], benchmark: Benchmark
) -> OtherFloat:
    latency, (reference, *quantized) = _latencies(times, index), [model.latency for model in measured]
    # Like a quantized network, a float network in another runtime is compared with eager execution.
    compared = quantized or ([reference] if isinstance(contestant.runtime, Eager) else [])
    return OtherFloat(
        runtime=contestant.runtime.name,
        prepare_seconds=_prepare_seconds(times, index),
        max_difference=_max_difference(times, index, contestant),
        latency=latency,
        speedups=_speedups(reference, latency, benchmark.margin),
        quantized_speedups=_speedups(latency, compared[0], benchmark.margin) if compared else (),
    )


def _other_quantized(
    contestant: Contestant, measured: Measured, references: Mapping[str, Sequence[Latency]], benchmark: Benchmark
) -> OtherQuantized:
    """Return the quantized network in a further runtime; `references` has the float network in each runtime."""
    here, eager = (references[name] for name in (contestant.runtime.name, Eager.name))
    return OtherQuantized(
        runtime=contestant.runtime.name,
        measured=measured,
        speedups=_speedups(here, measured.latency, benchmark.margin),
        eager_speedups=_speedups(eager, measured.latency, benchmark.margin),
    )


@torch.inference_mode()
def _profiles(times: Sequence[_Times], index: int, data: TaskData) -> tuple[Profile, ...]:
    """Profile one contestant at all batch sizes; the batches are made in inference mode, like those that are timed."""
    with memory_kept():  # as it was timed
        return tuple(
            timed.prepared[index].profile(data.evaluated.first(timed.timing.conditions.batch_size)) for timed in times
        )


def _memory(times: Sequence[_Times], index: int, contestant: Contestant, kept: Kept, data: TaskData) -> int | None:
    """Return the memory of a new process at the largest batch size: with the file of the runtime if it executes one."""
    conditions = [timed.timing.conditions for timed in times]
    if not conditions:
        return None
    at = max(range(len(times)), key=lambda at: conditions[at].batch_size)
    largest, exported = conditions[at], times[at].prepared[index].exported
    if contestant.runtime.file and exported:
        batch = data.evaluated.first(largest.batch_size)
        return file_memory_bytes(contestant.runtime, contestant.network, exported, batch)
    return memory_bytes(kept.folder, largest.batch_size, largest.threads) if kept.folder else None


def _compare(
    contestants: Sequence[Contestant],
    measured: Sequence[Measured],
    outputs: Mapping[int, Tensor],
    data: TaskData,
    benchmark: Benchmark,
    times: Sequence[_Times],
) -> Comparison:
    baseline, quantized = measured
    before, after = (data.objective.predictions(logits) for logits in (outputs[0], outputs[1]))
    with threads(usable_cores()):
        reference, other = (contestant.network for contestant in contestants)
        layers = layer_losses(reference, other, quantized.evidence.layers, data.evaluated)
    speedups = _speedups(baseline.latency, quantized.latency, benchmark.margin)
    return Comparison(
        quality=data.objective.change(outputs[0], outputs[1], data.evaluated.labels),
        agreement=float((before == after).double().mean()),
        compression=baseline.size.state_bytes / quantized.size.state_bytes,
        speedups=speedups,
        not_faster=tuple(_not_faster(contestants[1], quantized, speedups, times)),
        training_ratio=_training_ratio(*(contestant.training for contestant in contestants)),
        output_sqnr_db=sqnr_db(outputs[0], outputs[1]),
        layers=layers,
        energy_ratios=energy_ratios(baseline.latency, quantized.latency, benchmark.margin),
    )


def _speedups(reference: Sequence[Latency], other: Sequence[Latency], margin: float) -> tuple[Speedup, ...]:
    return tuple(speedup(*pair, margin) for pair in zip(reference, other, strict=False))


def _not_faster(
    contestant: Contestant, measured: Measured, speedups: Sequence[Speedup], times: Sequence[_Times]
) -> Iterator[NotFaster]:
    engine = contestant.engine.value if contestant.engine else None
    slow = slow_convolutions(contestant.network, contestant.engine, describe().instruction_sets)
    for speedup_here, profile_here, timed in zip(speedups, measured.profiles, times, strict=True):
        if speedup_here.verdict == "faster" or (speedup_here.low is None and speedup_here.ratio > 1):
            continue
        count = timed.timing.conditions.threads
        setting = Setting(contestant.precision, engine, count, usable_cores(), describe().instruction_sets)
        batch_size = speedup_here.batch_size
        larger = (other for other in speedups if other.batch_size > batch_size and other.verdict == "faster")
        evidence = _evidence(contestant, timed.prepared[1])
        reasons = not_faster(evidence, profile_here, setting, speedup_here.ratio, next(larger, None), slow)
        yield NotFaster(batch_size, reasons)


def _evidence(contestant: Contestant, prepared: Prepared) -> Evidence:
    """Return the evidence for the batch size of `prepared`; in eager execution it is the same for all."""
    if prepared is contestant.inspected:
        return contestant.evidence
    return replace(contestant.evidence, operators=prepared.operators())


def _training_ratio(baseline: Training | None, quantized: Training | None) -> float | None:
    """Return quantized over float training time, None if the two are not comparable."""
    if baseline is None or quantized is None or not quantized.comparable(baseline):
        return None
    return quantized.seconds / baseline.seconds

"""Timing forward passes: the models that are compared take turns, in one process, on the same inputs.

`paired` copies the models afresh several times. Two copies of one model differ by per cents from where
their weights lie in memory, so each placement is one look at the ratio, and the spread over placements
is the honest error. Within a placement rounds alternate: one block of calls for each model, in an order
that changes, long enough that the clock's resolution does not matter.

`lab` does as the hand-out says: one warm-up, a few timed calls on one batch, mean and deviation.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantexp.benchmark.statistics import latency
from quantexp.benchmark.subject import Subject
from quantexp.config import Benchmark, Lab, Paired
from quantexp.errors import BenchmarkError
from quantexp.report.results import Latency
from quantexp.tasks.base import Split

BLOCK_SECONDS = 1e-3  # a block is at least this long: ten thousand times the clock's resolution
MIN_ROUNDS = 5
BATCHES = 8  # distinct batches of test inputs that the calls rotate over, fewer where they are large
MAX_INPUT_BYTES = 64_000_000


def time_models(subjects: Sequence[Subject], test: Split, batch_size: int, protocol: Benchmark) -> list[Latency]:
    """Time the subjects against each other; the caller has set the threads.

    Raises:
        BenchmarkError: If the protocol is not one that is known here.
    """
    with torch.inference_mode():
        match protocol:
            case Paired():
                return _paired(subjects, _batches(test, batch_size, BATCHES), batch_size, protocol)
            case Lab():
                return _lab(subjects, _batches(test, batch_size, 1), batch_size, protocol)
    raise BenchmarkError(f"benchmark must be a Paired or a Lab, got {type(protocol).__name__}")


def _batches(test: Split, size: int, count: int) -> list[Tensor]:
    """Return up to `count` batches of real test inputs, starting anew at the first where they run out."""
    first = test.inputs(torch.arange(size) % len(test))
    fitting = max(1, min(count, MAX_INPUT_BYTES // first.nbytes))
    return [first, *(test.inputs((torch.arange(size) + index * size) % len(test)) for index in range(1, fitting))]


def _paired(subjects: Sequence[Subject], inputs: list[Tensor], batch_size: int, protocol: Paired) -> list[Latency]:
    samples: list[list[float]] = [[] for _ in subjects]
    calls = [_calls_per_block(subject.model, inputs) for subject in subjects]
    shuffle = random.Random(0)  # the order within a round, the same in every run
    rounds = MIN_ROUNDS
    for placement in range(protocol.placements):
        copies = [subject.copied() for subject in subjects]
        for model, count in zip(copies, calls, strict=True):
            _block(model, inputs, count)  # warm-up
        until = time.perf_counter() + protocol.seconds / protocol.placements
        taken = 0
        while taken < rounds or (placement == 0 and time.perf_counter() < until):
            for index in shuffle.sample(range(len(subjects)), len(subjects)):
                samples[index].append(_block(copies[index], inputs, calls[index], start=taken) * 1e3)
            taken += 1
        rounds = taken  # as many in every placement: they weigh the same
    return [
        latency(batch_size, samples_ms, count, protocol.placements)
        for samples_ms, count in zip(samples, calls, strict=True)
    ]


def _calls_per_block(model: nn.Module, inputs: list[Tensor]) -> int:
    _block(model, inputs, len(inputs))  # warm-up
    return max(1, round(BLOCK_SECONDS / _block(model, inputs, len(inputs))))


def _lab(subjects: Sequence[Subject], inputs: list[Tensor], batch_size: int, protocol: Lab) -> list[Latency]:
    samples: list[list[float]] = [[] for _ in subjects]
    for subject in subjects:
        _block(subject.model, inputs, 1)  # the one warm-up
    for _ in range(protocol.repeats):
        for subject, samples_ms in zip(subjects, samples, strict=True):
            samples_ms.append(_block(subject.model, inputs, 1) * 1e3)
    return [latency(batch_size, samples_ms, 1, 1) for samples_ms in samples]


def _block(model: nn.Module, inputs: list[Tensor], calls: int, start: int = 0) -> float:
    """Return the mean seconds of a call over a block of calls that rotates over the inputs."""
    turns = [inputs[(start + index) % len(inputs)] for index in range(calls)]
    started = time.perf_counter()
    for batch in turns:
        model(batch)
    return (time.perf_counter() - started) / calls

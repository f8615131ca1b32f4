"""Timing on several threads: in a child process, whose threads wait as torch has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quantexp.benchmark.child import Stored, time_stored
from quantexp.config import Dynamic, Eager, Experiment, Paired
from quantexp.mission import run
from quantexp.system.environment import usable_cores
from quantexp.system.errors import BenchmarkError
from quantexp.system.openmp import SPIN_COUNT, VARIABLE, shortened
from quantexp.tasks.data import Tensors

pytestmark = pytest.mark.serial

QUICK = {"placements": 2, "seconds": 0.05}
several = pytest.mark.skipif(not shortened() or usable_cores() < 2, reason="needs GNU OpenMP and two cores")


@several
def test_on_two_threads_the_networks_are_timed_where_the_threads_wait_as_torch_has_it(
    sample: Callable[..., Experiment],
) -> None:
    report = run(sample(quant=Dynamic(), benchmark=Paired(threads=2, **QUICK))).report  # type: ignore[arg-type]
    assert [timed.openmp for timed in report.conditions] == [{}, {}]
    assert [(timed.batch_size, timed.threads) for timed in report.conditions] == [(1, 2), (8, 2)]
    for model in (report.baseline, report.quantized):
        assert model is not None
        assert [timed.batch_size for timed in model.latency] == [1, 8]
        assert all(timed.median_ms > 0 and timed.placements >= 2 for timed in model.latency)
    assert report.comparison is not None
    assert all(speedup.low is not None for speedup in report.comparison.speedups)


def test_on_one_thread_the_networks_are_timed_in_the_process_of_the_run(sample: Callable[..., Experiment]) -> None:
    report = run(sample(quant=Dynamic(), benchmark=Paired(threads=1, **QUICK))).report  # type: ignore[arg-type]
    assert [timed.openmp for timed in report.conditions] == [{VARIABLE: SPIN_COUNT}] * 2


def test_a_child_that_cannot_load_a_network_says_why_and_what_to_set(tmp_path: Path) -> None:
    examples = Tensors(None, (torch.zeros(4, 2),))
    nothing = Stored(tmp_path, Eager(), None)
    expected = rf"measured in a child process, but it failed: .*{tmp_path}.*; use benchmark.threads=1"
    with pytest.raises(BenchmarkError, match=expected):
        time_stored([nothing], examples, [1], Paired(threads=2))

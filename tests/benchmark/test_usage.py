from __future__ import annotations

import mmap
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.benchmark.latency import time_models
from quantexp.benchmark.usage import Usage, system_reasons, used
from quantexp.config import Eager, Lab, Paired
from quantexp.results import Resources
from quantexp.runtimes import prepare
from quantexp.system.environment import threads
from quantexp.tasks.data import Tensors
from tests.builders import latency

pytestmark = pytest.mark.serial

pytest.importorskip("resource")

MAPPED = 1 << 20  # bytes that the faulting network maps in each call
PAGE = 4096
NAMES = ("the float network", "the quantized network")


def resources(**changes: Any) -> Resources:
    """A hundred calls of 10 ms, half a millisecond of it in the system."""
    return replace(Resources(100, 0.0, 0.5, 10.0), **changes)


def reasons(float_side: Resources | None, quantized: Resources | None) -> list[str]:
    return list(system_reasons([latency(resources=float_side), latency(resources=quantized)], NAMES))


class Faulting(nn.Module):
    """Maps memory anew in each call, past the allocator, and writes to each page of it."""

    def forward(self, x: Tensor) -> Tensor:
        with mmap.mmap(-1, MAPPED) as mapped:
            for at in range(0, MAPPED, PAGE):
                mapped[at] = 1
        return x


class Still(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.T


@pytest.mark.parametrize("protocol", [Paired(placements=2, seconds=0.1), Lab()], ids=["paired", "lab"])
def test_page_faults_are_counted_for_the_network_that_has_them(protocol: Paired | Lab) -> None:
    examples = Tensors(torch.zeros(4, dtype=torch.long), (torch.rand(4, 4),))
    contestants = [prepare(Eager(), network, examples.first(4)) for network in (Faulting(), Still())]
    with threads(1):
        faulting, still = (one.resources for one in time_models(contestants, examples, 4, protocol).latencies)
    assert faulting is not None
    assert still is not None
    assert faulting.minor_faults_per_call == pytest.approx(MAPPED / PAGE, rel=0.05)
    assert still.minor_faults_per_call < 1
    assert 0 <= faulting.system_share <= 1
    samples = protocol.repeats if isinstance(protocol, Lab) else 2
    assert faulting.calls >= samples


def test_usage_is_given_per_call() -> None:
    one, other = Usage(0, 100, 1.0, 4.0), Usage(0, 160, 1.5, 6.0)
    spent = one.until(other, calls=10)
    assert (spent + spent).per_call() == Resources(20, 6.0, pytest.approx(50.0), pytest.approx(200.0))
    assert Usage().per_call() is None
    assert used().cpu_seconds >= used().system_seconds > 0


def test_a_network_whose_time_is_to_more_than_a_tenth_that_of_the_system_marks_the_comparison() -> None:
    paging = resources(minor_faults_per_call=70_935.4, system_ms_per_call=5.3)
    assert reasons(paging, resources()) == [
        "the operating system took 53% of the CPU time of the float network (70,935 page faults a call), which says "
        "little about the network"
    ]
    (reason,) = reasons(resources(), paging)
    assert "of the quantized network" in reason
    assert len(reasons(paging, paging)) == 2


def test_without_page_faults_only_a_share_above_that_of_the_other_network_marks_it() -> None:
    assert reasons(resources(system_ms_per_call=1.36), resources(system_ms_per_call=1.31)) == []
    (reason,) = reasons(resources(system_ms_per_call=1.6), resources(system_ms_per_call=0.5))
    assert "16% of the CPU time of the float network (0 page faults a call)" in reason


def test_a_tenth_is_not_enough_nor_is_a_share_of_a_short_time() -> None:
    assert reasons(resources(system_ms_per_call=1.0), resources()) == []
    assert reasons(resources(system_ms_per_call=5.0, calls=9), resources()) == [], "90 ms are few ticks of the clock"
    assert reasons(None, None) == [], "a system that counts nothing"

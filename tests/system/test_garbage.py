"""Networks in reference cycles are freed when the process has grown by them, and only then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from quantexp.system import garbage
from quantexp.system.garbage import GROWTH_BYTES, collect_garbage


class Cycle(nn.Module):
    """A module that refers to itself, as graphs and prepared layers do."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(values))
        self.own = [self]


@pytest.fixture
def only_by_call(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is collected but by the function, which has not been called yet."""
    monkeypatch.setattr(garbage, "_after", None)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("only_by_call")
def test_large_garbage_is_freed_and_small_garbage_costs_no_search() -> None:
    collect_garbage()  # remembers the memory
    small = weakref.ref(Cycle(1000).weight)
    collect_garbage()
    assert small() is not None
    large = weakref.ref(Cycle(GROWTH_BYTES // 2).weight)  # floats: twice the growth
    collect_garbage()
    assert large() is None
    assert small() is None

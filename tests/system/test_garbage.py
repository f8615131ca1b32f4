"""Networks in reference cycles are freed when the size of the process has changed by as much, and only then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from quantexp.system import garbage
from quantexp.system.garbage import CHANGE_BYTES, collect_garbage


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
    large = weakref.ref(Cycle(CHANGE_BYTES // 2).weight)  # floats: twice the bytes
    collect_garbage()
    assert large() is None
    assert small() is None


@pytest.mark.usefixtures("only_by_call")
def test_garbage_that_was_in_use_at_the_last_call_is_freed_after_the_process_has_shrunk() -> None:
    large = torch.ones(CHANGE_BYTES)  # floats
    used = Cycle(CHANGE_BYTES // 2)
    weight = weakref.ref(used.weight)
    collect_garbage()
    del large, used
    collect_garbage()
    assert weight() is None

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from quantexp.system import allocator
from quantexp.system.allocator import KEPT, memory_kept

GLIBC = bool(os.confstr_names.get("CS_GNU_LIBC_VERSION")) and bool(os.confstr("CS_GNU_LIBC_VERSION"))
LARGE = 16 << 20  # floats: 64 MiB, more than glibc ever keeps by itself
PAGES = 4 * LARGE // 2**21  # of 2 MiB: a system that maps small pages needs 512 times as many
FEW = PAGES // 2  # what Python and the runtime of torch may need by themselves
SETTLED = 20  # allocations after which the heap has grown as far as it will

on_glibc = pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")

pytestmark = pytest.mark.serial

CHILD = """
import json, sys
from tests.system.test_allocator import faults, memory_kept
before = faults()
with memory_kept():
    with memory_kept():
        inside = faults()
    nested = faults()
print(json.dumps([before, inside, nested, faults(4)]))
"""


def faults(times: int = 1) -> int:
    """The page faults of an allocation, `times` as large as others, of the last of several."""
    for _ in range(SETTLED):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(times * LARGE)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return after - before


@on_glibc
def test_large_memory_is_mapped_anew_in_each_call_except_in_the_context() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    before, inside, nested, after = json.loads(done.stdout)
    assert before >= PAGES
    assert max(inside, nested) < FEW, "an inner context changes nothing"
    assert after >= 4 * PAGES, "what is larger than the heap that remains is returned to the system again"


@on_glibc
def test_the_record_says_that_memory_is_kept() -> None:
    with memory_kept() as words:
        assert words == KEPT


def test_another_allocator_is_named_and_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    monkeypatch.setattr(allocator, "_library", lambda: "libjemalloc.so.2")
    with memory_kept() as words:
        assert words == "libjemalloc.so.2, with its own settings"


def test_a_glibc_that_refuses_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def mallopt(self, parameter: int, value: int) -> int:
            return 0

        def malloc_trim(self, pad: int) -> int:
            return 0

    monkeypatch.setattr(allocator, "_glibc", Refusing)
    with memory_kept() as words:
        assert words == "glibc, which refused to keep freed memory"

"""Memory of networks that nothing uses any more, but that Python does not free by itself.

Graphs of torch.fx and layers that torch.ao prepared are in reference cycles. Python looks for cycles after many new
objects, however large they are: a few copies of a network are few objects and can be gigabytes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from quantexp.system.allocator import give_back

if TYPE_CHECKING:
    import psutil

CHANGE_BYTES = 64_000_000  # of the process; to look for cycles takes about as long as to copy so much

_after: int | None = None  # the memory after the last time


def collect_garbage() -> None:
    """Free what is in reference cycles, if the size of the process has changed much since the last call; else nothing.

    A process that has shrunk can hold cycles that the last call found in use. What is free goes back to the system.
    """
    global _after
    resident = _process().memory_info().rss
    if _after is None:
        _after = resident
    elif abs(resident - _after) > CHANGE_BYTES:
        gc.collect()
        give_back()
        _after = _process().memory_info().rss


@contextmanager
def uncollected() -> Iterator[None]:
    """Let Python not look for cycles: a report makes millions of objects that stay, and each look goes through all."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def _process() -> psutil.Process:
    import psutil

    return psutil.Process()

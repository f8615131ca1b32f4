"""Memory of networks that nothing uses any more, but that Python does not free by itself.

Graphs of torch.fx and layers that torch.ao prepared are in reference cycles. Python looks for cycles after many new
objects, however large they are: a few copies of a network are few objects and can be gigabytes.
"""

from __future__ import annotations

import gc
from functools import cache

import psutil

from quantexp.system.allocator import give_back

GROWTH_BYTES = 64_000_000  # of the process; to look for cycles takes about as long as to copy so much

_after: int | None = None  # the memory after the last time


def collect_garbage() -> None:
    """Free what is in reference cycles, if the process has grown much since the last call that did; else do nothing.

    What is free then goes back to the system.
    """
    global _after
    resident = _process().memory_info().rss
    if _after is None:
        _after = resident
    elif resident > _after + GROWTH_BYTES:
        gc.collect()
        give_back()
        _after = _process().memory_info().rss
    else:
        _after = min(_after, resident)


@cache
def _process() -> psutil.Process:
    return psutil.Process()

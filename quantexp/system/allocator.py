"""Whether the allocator of the C library keeps large blocks of memory between two calls of a network.

glibc maps a block of more than 32 MiB anew each time, and returns it to the system when it is freed; it also returns
what is free at the end of its heap. A network with large activations then pays for page faults in every call, for which
the system fills pages with zeros. In MobileNetV2 at batch 8 that is half of the time in float but 6 % in int8, whose
activations are smaller: int8 seems four times as fast and is twice as fast. While networks are compared, glibc keeps
all memory, for all of them. Other libraries have no such setting.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # parameters of mallopt
NEVER = -1  # as a threshold, the largest size
MAPPED_BLOCKS = 65536  # at most, as glibc comes
MAPPED_FROM_BYTES = 32 << 20  # what glibc raises its threshold to when such blocks are freed
TRIMMED_FROM_BYTES = 2 * MAPPED_FROM_BYTES
KEPT = "glibc, which keeps freed memory while networks are timed"

_depth = 0  # of contexts that are open in this process


class _Symbol(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


@contextmanager
def memory_kept() -> Iterator[str]:
    """Let glibc keep freed memory for the next call, and yield in words what the allocator does.

    Blocks are never mapped one by one and the heap never shrinks, until the outermost context ends: then free memory
    goes back to the system. The settings that glibc had cannot be read, so those that it reaches by itself are set.
    """
    global _depth
    libc = _glibc()
    if libc is None:
        yield f"{_library()}, with its own settings"
        return
    if _depth == 0 and not (libc.mallopt(MMAP_MAX, 0) and libc.mallopt(TRIM_THRESHOLD, NEVER)):
        _restore(libc)
        yield "glibc, which refused to keep freed memory"
        return
    _depth += 1
    try:
        yield KEPT
    finally:
        _depth -= 1
        if _depth == 0:
            _restore(libc)


def give_back() -> None:
    """Give memory that is free back to the system, unless it is kept for the next call."""
    libc = _glibc()
    if libc is not None and _depth == 0:
        libc.malloc_trim(0)


def _restore(libc: ctypes.CDLL) -> None:
    libc.mallopt(MMAP_MAX, MAPPED_BLOCKS)
    libc.mallopt(MMAP_THRESHOLD, MAPPED_FROM_BYTES)
    libc.mallopt(TRIM_THRESHOLD, TRIMMED_FROM_BYTES)
    libc.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return glibc if its `malloc` is the one that this process uses, else None."""
    try:
        known = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):  # Windows; macOS; musl
        return None
    return ctypes.CDLL(None) if known and _library().startswith(("libc.so", "libc-")) else None


@functools.cache
def _library() -> str:
    """Return the file name of the library that `malloc` comes from: another one can be loaded before the C library."""
    try:
        process = ctypes.CDLL(None)
        symbol = _Symbol()
        found = process.dladdr(ctypes.cast(process.malloc, ctypes.c_void_p), ctypes.byref(symbol))
    except (AttributeError, OSError, TypeError):  # no dladdr; no such process handle on Windows
        found = 0
    return Path(os.fsdecode(symbol.file)).name if found else "an unknown C library"

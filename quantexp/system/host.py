"""What processes of quantexp on one host owe each other: who measures does so while the others stand still.

One lock, in memory that no other host shares. Who measures holds it; who trains or predicts takes and frees it
between two batches, and so waits there as long as another measures. The operating system frees it if its holder dies.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

log = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")  # of this host even where /tmp is shared
PERIOD_SECONDS = 0.02  # between two looks at the lock: one takes a fiftieth of a training step

_measuring = False
_looked = 0.0


@contextmanager
def alone() -> Iterator[None]:
    """Measure while the other processes of quantexp on this host stand still, in turn with those that measure too."""
    global _measuring
    lock = _lock()
    if _measuring or lock is None:
        yield
        return
    _acquire(lock, "another process on this host measures")
    _measuring = True
    try:
        yield
    finally:
        _measuring = False
        lock.release()


def give_way() -> None:
    """Stand still while another process on this host measures. Called between two batches."""
    global _looked
    if _measuring or time.monotonic() - _looked < PERIOD_SECONDS:
        return
    if lock := _lock():
        _acquire(lock, "")
        lock.release()
    _looked = time.monotonic()


def _acquire(lock: filelock.BaseFileLock, waiting_for: str) -> None:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if waiting_for:
            log.info("waiting   %s", waiting_for)
        lock.acquire(poll_interval=0.02)


@functools.cache
def _lock() -> filelock.BaseFileLock | None:
    """Return this host's lock, None where none can be made."""
    root = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    folder = root / "quantexp"
    try:
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid == getattr(os, "getuid", lambda: 0)():
            folder.chmod(0o777)  # every user of the host measures in turn
        path = folder / "measuring.lock"
        lock = filelock.FileLock(path, mode=0o666)
        lock.acquire(timeout=0)
        lock.release()
    except filelock.Timeout:
        return lock
    except OSError as error:
        log.warning("processes that measure at once will disturb each other: no lock in %s (%s)", folder, error)
        return None
    return lock

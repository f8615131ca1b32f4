"""One process of quantexp measures at a time on a host, while the others wait.

There is one lock, in memory that no other host shares. A process holds it while it measures. A process that trains or
predicts takes and releases it between two batches, and so waits while another measures. The operating system releases
it if its holder dies.
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
PERIOD_SECONDS = 0.02  # between two checks of the lock; a check takes a fiftieth of a training step

_measuring = False
_checked = 0.0


@contextmanager
def alone() -> Iterator[None]:
    """Measure while other processes of quantexp on this host wait; those that measure too take turns."""
    global _measuring
    lock = _lock()
    if _measuring or lock is None:
        yield
        return
    _acquire(lock, "another process measures on this host")
    _measuring = True
    try:
        yield
    finally:
        _measuring = False
        lock.release()


def give_way() -> None:
    """Wait while another process measures on this host. Called between two batches."""
    global _checked
    if _measuring or time.monotonic() - _checked < PERIOD_SECONDS:
        return
    if lock := _lock():
        _acquire(lock, "")
        lock.release()
    _checked = time.monotonic()


def _acquire(lock: filelock.BaseFileLock, waiting_for: str) -> None:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if waiting_for:
            log.info("waiting   %s", waiting_for)
        lock.acquire(poll_interval=0.02)


@functools.cache
def _lock() -> filelock.BaseFileLock | None:
    """Return the lock of this host; None if it cannot be created."""
    root = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    folder = root / "quantexp"
    try:
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid == getattr(os, "getuid", lambda: 0)():
            folder.chmod(0o777)  # for every user of the host
        path = folder / "measuring.lock"
        lock = filelock.FileLock(path, mode=0o666)
        lock.acquire(timeout=0)
        lock.release()
    except filelock.Timeout:
        return lock
    except OSError as error:
        log.warning(
            "there is no lock in %s (%s), so processes that measure at the same time disturb each other", folder, error
        )
        return None
    return lock


if hasattr(os, "register_at_fork"):  # a lock that a child inherits cannot be used
    os.register_at_fork(after_in_child=_lock.cache_clear)

"""Interrupts: SIGTERM counts as Ctrl-C, and an interrupt that surfaces as another error is still an interrupt.

An import that is interrupted, for example, may end in an ImportError.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_requested = False


def listen() -> None:
    """Treat SIGTERM as Ctrl-C, so that a run is closed as KILLED, and remember an interrupt."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def requested() -> bool:
    """Return whether the process was interrupted."""
    return _requested


@contextmanager
def guard() -> Iterator[None]:
    """Raise KeyboardInterrupt in place of any error after an interrupt."""
    try:
        yield
    except Exception as error:
        if _requested:
            raise KeyboardInterrupt from error
        raise


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _requested
    _requested = True
    raise KeyboardInterrupt

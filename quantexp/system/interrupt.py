"""A request to end, kept: an import that is cut short may end in other words than KeyboardInterrupt."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_requested = False


def listen() -> None:
    """Treat SIGTERM as Ctrl-C, so that a run is closed as KILLED, and remember that either came."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def requested() -> bool:
    """Tell whether a request to end has come."""
    return _requested


@contextmanager
def kept() -> Iterator[None]:
    """Raise KeyboardInterrupt for whatever error ends the block after a request to end."""
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

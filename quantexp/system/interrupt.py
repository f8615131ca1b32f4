"""Interrupts: SIGTERM counts as Ctrl-C, and an interrupt that surfaces as another error is still an interrupt.

An interrupt during an import waits until the import ends. An import that is cut short may raise another error, or end
the process with SIGABRT, as torch does where its C++ calls Python. An interrupt is repeated until `guard` sees it, as
one that is raised in a callback is lost.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LONGEST_WAIT = 10.0  # seconds until an interrupt no longer waits for an import; that of torch takes about two
WAIT = 0.02  # seconds between two looks
ARRIVES_IN = 5.0  # seconds until an interrupt is repeated
NEVER = 0.0
TIMERS = hasattr(signal, "setitimer")  # not on Windows
IMPORT = "<frozen importlib"  # how the names of files begin in frames that import

_since: float | None = None  # when the process was interrupted


def listen() -> None:
    """Treat SIGTERM as Ctrl-C, so that a run is closed as KILLED, and remember an interrupt.

    In another thread than the main one nothing changes: Python lets only that one handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if TIMERS:
        signal.signal(signal.SIGALRM, _interrupt)  # by which an interrupt is repeated


def requested() -> bool:
    """Return whether the process was interrupted."""
    return _since is not None


@contextmanager
def guard() -> Iterator[None]:
    """Raise KeyboardInterrupt in place of any error after an interrupt, and do not repeat the interrupt any more."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if requested():
            _repeat_in(NEVER)
            raise KeyboardInterrupt from error
        raise


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _since
    now = time.monotonic()
    _since = now if _since is None else _since
    waits = TIMERS and now - _since < LONGEST_WAIT and _imports(frame)
    _repeat_in(WAIT if waits else ARRIVES_IN)
    if not waits:
        raise KeyboardInterrupt


def _repeat_in(seconds: float) -> None:
    if TIMERS:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _imports(frame: FrameType | None) -> bool:
    while frame and not frame.f_code.co_filename.startswith(IMPORT):
        frame = frame.f_back
    return frame is not None

"""What the commands share that only read: output that no terminal breaks, interrupts, and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NoReturn

from quantexp.system import interrupt
from quantexp.system.errors import ConfigError, QuantexpError

FAILED, BAD_VALUES, INTERRUPTED = 1, 2, 130  # exit status


@contextmanager
def command(name: str) -> Iterator[None]:
    """End the process with 2 for bad values, 1 if the command fails, 130 if it is interrupted; say why on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± must not cost a report
    interrupt.listen()
    try:
        with interrupt.guard():
            yield
    except ConfigError as error:
        _leave(name, str(error), BAD_VALUES)
    except QuantexpError as error:
        _leave(name, str(error), FAILED)
    except KeyboardInterrupt:
        _leave(name, "interrupted", INTERRUPTED)


def _leave(name: str, message: str, status: int) -> NoReturn:
    print(f"{name}: {message}", file=sys.stderr)
    raise SystemExit(status)

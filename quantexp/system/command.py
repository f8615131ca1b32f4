"""What the commands share that only read: output that no terminal breaks, interrupts, and errors in one line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
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
        with flushed(), interrupt.guard():
            check_working_directory()
            yield
    except ConfigError as error:
        _leave(name, str(error), BAD_VALUES)
    except QuantexpError as error:
        _leave(name, str(error), FAILED)
    except KeyboardInterrupt:
        _leave(name, "interrupted", INTERRUPTED)


@contextmanager
def flushed() -> Iterator[None]:
    """Write what is still to be printed when the block ends; a reader such as `head` that has enough is no error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _discard()
        print(f"quantexp: the output cannot be printed ({error.strerror})", file=sys.stderr)
        sys.exit(FAILED)


def check_working_directory() -> None:
    """Raise ConfigError if the working directory was removed: paths are relative to it."""
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the working directory must exist ({error.strerror}); change to another one with cd"
        ) from error


def _discard() -> None:
    """Send the rest of the output nowhere: Python would try to write it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(name: str, message: str, status: int) -> NoReturn:
    print(f"{name}: {message}", file=sys.stderr)
    raise SystemExit(status)

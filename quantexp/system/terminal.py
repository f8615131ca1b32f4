"""Output: messages and progress bars on stderr, tables on stdout."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

log = logging.getLogger(__name__)

PLAIN_WIDTH = 320  # without a terminal, so that tables are not folded


@cache
def out() -> Console:
    """Return the console on stdout, for results."""
    return _console(stderr=False)


@cache
def err() -> Console:
    """Return the console on stderr, for stages, progress and errors."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            """Raise an error for a closed pipe; rich would end the process."""
            raise BrokenPipeError("the reader has closed the pipe")

    console = PipeConsole(stderr=stderr, highlight=False)
    return console if console.is_terminal else PipeConsole(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


class Handler(logging.Handler):
    """Print log records above the progress bar, warnings and errors with their level before them."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        err().print(printable(prefix + self.format(record)), markup=False, soft_wrap=True)


def show(result: RenderableType | str) -> None:
    """Print a result on stdout. If that fails, the run goes on, as it must still be recorded."""
    try:
        if isinstance(result, str):
            out().print(printable(result), markup=False, soft_wrap=True)
        else:
            out().print(result)
    except OSError as error:
        log.warning("results cannot be printed (%s)", error.strerror or error)


def printable(text: str) -> str:
    """Return the text without control characters, as text from a store must not control the terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in ("Cc", "Cf") and char not in "\n\t" else char
        for char in text
    )


def leave(message: str, status: int) -> NoReturn:
    """Print a message and end the process with `status`."""
    err().print(f"quantexp: {printable(message)}", markup=False, soft_wrap=True)
    raise SystemExit(status)


@contextmanager
def progress(label: str, examples: int) -> Iterator[Callable[[int, str], None]]:
    """Show a progress bar with the rate and a note; without a terminal nothing."""
    if not err().is_terminal:
        yield lambda done, note: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  {task.fields[note]}  {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(label, total=examples, note="", rate="")

        def advance(done: int, note: str) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=done, note=note, rate=f"{speed:,.0f} examples/s" if speed else "")

        yield advance

"""Try experiments in worker processes, several at once."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Self

from quantexp.config import Experiment
from quantexp.results.compatibility import Outcome, parse_outcome
from quantexp.runner.described import described
from quantexp.runner.worker import Ended, Setup, Task
from quantexp.system.errors import QuantexpError

CLOSING_SECONDS = 5.0  # until the process is killed
UNUSED = ("study", "tracking")  # by a trial
LONGEST_ERROR = 300  # characters


class Pool:
    """A process with torch and the data in memory, which forks for each experiment; at most `count` forks at once."""

    def __init__(self, setup: Setup, count: int) -> None:
        self._setup = setup
        self._count = count
        self._tasks = 0

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "quantexp.runner.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # an interrupt is for this process, which then ends the other
        )
        self._send(json.dumps(asdict(self._setup)))
        return self

    def __exit__(self, *raised: object) -> None:
        """End the process; it ends its forks."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def outcomes(self, experiments: Sequence[Experiment]) -> Iterator[tuple[int, Outcome]]:
        """Yield the outcome of each experiment with its position, in the order in which they end.

        Raises:
            QuantexpError: If the process that starts the workers ends.
        """
        first = self._tasks
        self._tasks += len(experiments)
        waiting = iter(
            [json.dumps(asdict(Task(first + at, described(each, UNUSED)))) for at, each in enumerate(experiments)]
        )
        for _ in range(self._count):
            self._next(waiting)
        for _ in experiments:
            ended = Ended(**json.loads(self._answer()))
            self._next(waiting)
            yield ended.number - first, parse_outcome(ended.outcome)

    def _next(self, waiting: Iterator[str]) -> None:
        if (line := next(waiting, None)) is not None:
            self._send(line)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            print(line, file=self._process.stdin, flush=True)
        except OSError as error:
            raise self._failure() from error

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise self._failure()
        return line

    def _failure(self) -> QuantexpError:
        """Return why the process ended, by the last line that it printed."""
        status = self._process.wait()
        self._errors.seek(0)
        printed = self._errors.read().strip().splitlines() or [f"exit status {status}"]
        return QuantexpError(f"the process that starts the workers ended: {printed[-1][-LONGEST_ERROR:]}")

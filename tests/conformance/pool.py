"""Worker processes that run cells: a crash or a timeout of one is the outcome of its cell, and another takes over."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conformance.cells import Cell, Outcome, Result, outcome

LIMIT_SECONDS = 180.0  # for a cell; most take less than two


class Worker:
    """A process that runs one cell after another."""

    def __init__(self, cache: str, advise: bool = True) -> None:
        self._cache, self._advise = cache, advise
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, cell: Cell) -> Result:
        """Return what became of the cell; if the process ended or took too long, it is replaced."""
        self._pipe.send(cell)
        try:
            if self._pipe.poll(LIMIT_SECONDS):
                result: Result = self._pipe.recv()
                return result
            ended, reason = Outcome.timeout, f"not finished after {LIMIT_SECONDS:.0f} s"
        except (EOFError, ConnectionError):
            self._process.join()
            ended, reason = Outcome.crash, f"the process ended with exit status {self._process.exitcode}"
        self._stop()
        self._start()
        return Result(str(cell), ended, reason)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # with threads in the parent, a fork can hang
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._cache, self._advise), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _work(pipe: Connection, cache: str, advise: bool) -> None:
    """Run the cells that come through the pipe until it is closed."""
    with Path(os.devnull).open("w") as nowhere:  # what torch and compilers print is no part of a result
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    while True:
        try:
            cell = pipe.recv()
        except EOFError:
            return
        pipe.send(outcome(cell, cache, advise=advise))


def run(cells: Sequence[Cell], workers: int, *, advise: bool = True) -> Iterator[Result]:
    """Yield the results of the cells, those of a network together; a worker runs all cells of a network."""
    groups = [[cell for cell in cells if cell.network == name] for name in dict.fromkeys(one.network for one in cells)]
    with (
        tempfile.TemporaryDirectory() as cache,
        ExitStack() as stack,
        ThreadPoolExecutor(workers) as threads,  # each thread waits for a process
    ):
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(workers):
            idle.put(stack.enter_context(Worker(cache, advise)))

        def results(group: Sequence[Cell]) -> list[Result]:
            worker = idle.get()
            try:
                return [worker.run(cell) for cell in group]
            finally:
                idle.put(worker)

        try:
            for future in as_completed([threads.submit(results, group) for group in groups]):
                yield from future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

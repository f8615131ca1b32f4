"""Try experiments, each in a fork of one process that has imported torch and read the data.

    python -m quantexp.runner.worker

The first line on stdin is a `Setup`, each further one a `Task`, as JSON; a line with an `Ended` answers each task. A
kernel that aborts its process, an endless loop or too much memory ends a fork only, and is an outcome like others. The
process itself computes on one thread, as OpenMP's threads do not survive a fork, and builds no network.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import select
import signal
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch

from quantexp.config import Experiment
from quantexp.mission import attempt, load
from quantexp.results.compatibility import Outcome, Word, parse_outcome
from quantexp.runner.described import restored
from quantexp.system.errors import CheckError, QuantexpError
from quantexp.training.brief import BriefBaseline, brief

PRELOADED = (  # imported by flows when they are used
    "torch.ao.quantization.quantize_fx",
    "torch.export",
    "torchao.quantization",
    "torchao.quantization.pt2e.quantize_pt2e",
    "quantexp.quant.flows.x86_quantizer",
    *(f"quantexp.quant.flows.{name}" for name in ("eager", "fx", "pt2e", "torchao")),
)
POLL_SECONDS = 0.02
CHUNK = 2**16  # bytes
RESULT_FILE, ERRORS = "outcome.json", "stderr"
LONGEST_REASON = 2000  # characters


@dataclass(frozen=True)
class Setup:
    """The experiment whose data are read, the limits of a task, and the folder of the network of `train.checkpoint`.

    The memory is that of a fork beyond what the process has before it forks.
    """

    experiment: dict[str, Any]
    seconds: float
    memory_gb: float
    weights: str | None


@dataclass(frozen=True)
class Task:
    """An experiment to be tried, with a number."""

    number: int
    experiment: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """The outcome of the task with this number."""

    number: int
    outcome: dict[str, Any]


def main() -> None:
    """Prepare the process, then start a fork for each task and watch all of them, until stdin is closed."""
    torch.set_num_threads(1)
    for name in PRELOADED:
        with suppress(ImportError):  # then the flow that needs it says so
            import_module(name)
    lines = _Lines(sys.stdin.fileno())
    setup = Setup(**json.loads(lines.next(None) or ""))
    load(restored(setup.experiment))  # forks find the data in memory
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        _Forks(setup, Path(scratch)).serve(lines)


class _Lines:
    """The lines of a pipe, read without waiting longer than necessary."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.closed = False

    def next(self, seconds: float | None) -> str | None:
        """Return the next line, None if there is none within so many seconds; None as `seconds` waits for it."""
        while not self.closed and b"\n" not in self._rest:
            if not select.select([self._descriptor], [], [], seconds)[0]:
                return None
            found = os.read(self._descriptor, CHUNK)
            self.closed = not found
            self._rest += found
        line, ended, self._rest = self._rest.partition(b"\n")
        return line.decode() if ended else None


@dataclass(frozen=True)
class _Fork:
    """A fork at work on a task."""

    number: int
    started: float
    folder: Path


class _Forks:
    """The forks at work."""

    def __init__(self, setup: Setup, scratch: Path) -> None:
        self._setup = setup
        self._scratch = scratch
        self._at_work: dict[int, _Fork] = {}
        self._own_bytes = psutil.Process().memory_info().rss

    def serve(self, lines: _Lines) -> None:
        """Work on the tasks until the pipe is closed; forks that are still at work are ended then."""
        try:
            while not lines.closed:
                if line := lines.next(POLL_SECONDS):
                    self._start(Task(**json.loads(line)))
                self._watch()
        finally:
            for pid in self._at_work:
                _end(pid)

    def _start(self, task: Task) -> None:
        folder = self._scratch / str(task.number)
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            _work(task, self._setup, folder)
        with suppress(OSError):  # it does so itself too, whichever comes first
            os.setpgid(pid, pid)
        self._at_work[pid] = _Fork(task.number, time.monotonic(), folder)

    def _watch(self) -> None:
        """Answer for the forks that ended, and end those that are beyond a limit."""
        for pid, fork in list(self._at_work.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            outcome = _outcome(fork.folder, status) if ended else self._beyond_limit(pid, fork)
            if outcome is None:
                continue
            _end(pid)  # and the processes that it has started
            if not ended:
                os.waitpid(pid, 0)
            del self._at_work[pid]
            outcome = replace(outcome, seconds=time.monotonic() - fork.started)
            print(json.dumps(asdict(Ended(fork.number, asdict(outcome)))), flush=True)

    def _beyond_limit(self, pid: int, fork: _Fork) -> Outcome | None:
        if time.monotonic() - fork.started > self._setup.seconds:
            return Outcome(Word.timeout, f"not ready after {self._setup.seconds:g} s")
        if (psutil.Process(pid).memory_info().rss - self._own_bytes) / 1e9 > self._setup.memory_gb:
            return Outcome(Word.crashed, f"it needs more than {self._setup.memory_gb:.1f} GB of memory")
        return None


def _end(pid: int) -> None:
    """Kill a process group, if there is one."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _outcome(folder: Path, status: int) -> Outcome:
    """Return the outcome that a fork wrote; without one, how it ended."""
    code = os.waitstatus_to_exitcode(status)
    with suppress(OSError, ValueError):
        if code == 0:
            return parse_outcome(json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")))
    how = (
        f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code} and without a result"
    )
    printed = (folder / ERRORS).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return Outcome(Word.crashed, f"{how} ({printed[-1][:LONGEST_REASON]})" if printed else how)


def _work(task: Task, setup: Setup, folder: Path) -> NoReturn:
    """Try an experiment in a fork, write the outcome, and end the fork."""
    os.setpgid(0, 0)
    for place, descriptor in ((os.devnull, 0), (os.devnull, 1), (str(folder / ERRORS), 2)):
        opened = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
    logging.disable()
    warnings.simplefilter("ignore")
    outcome = _tried(restored(task.experiment), Path(setup.weights) if setup.weights else None)
    (folder / RESULT_FILE).write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    os._exit(0)  # without what its libraries do at exit


def _tried(experiment: Experiment, weights: Path | None) -> Outcome:
    """Quantize and check the network of an experiment, and return what came of it."""
    try:
        data = load(experiment)
        baseline = BriefBaseline(experiment, data, weights)
        made = attempt(*brief(experiment, data), baseline, advise=False)
        share = made.evidence.mac_share(str(experiment.precision))
        return Outcome(
            Word.works,
            mac_share=share,
            size_mb=made.size.state_bytes / 1e6,
            output_sqnr_db=made.output_sqnr_db,
            findings=tuple(finding.text for finding in made.findings),
            weights=baseline.weights,
            key=hashlib.sha256(json.dumps(baseline.key, sort_keys=True).encode()).hexdigest(),
            examples=len(data.train),
        )
    except CheckError as error:
        return Outcome(Word.wrong, str(error)[:LONGEST_REASON], check=error.check)
    except QuantexpError as error:
        return Outcome(Word.refused, str(error)[:LONGEST_REASON])
    except BaseException as error:  # of the user's code, or a fault of quantexp
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(Word.crashed, reason[:LONGEST_REASON])


if __name__ == "__main__":
    main()

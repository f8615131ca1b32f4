"""A job of a sweep in a process of its own, below the worker that a launcher started.

    python -m quantexp.runner.isolated

It reads a `Task` as JSON from stdin. Launchers set OMP_NUM_THREADS=1 in their workers, run one job after another in one
process, and end the sweep if a worker is killed. So the worker starts this process, waits, and says how it ended: a
killed process, for example as the memory is full, is a failed combination like any other. If the worker is killed, this
process closes its run and ends. As long as both live, the worker touches a mark in the sweep's directory.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quantexp.config import Experiment
from quantexp.runner.described import described, restored
from quantexp.runner.jobs import JobOutcome, State
from quantexp.runner.running import Mark
from quantexp.runner.tracked import Request
from quantexp.system import interrupt, openmp, own_code

log = logging.getLogger(__name__)

INTERRUPTED = 130  # exit status
CLOSING_SECONDS = 30.0  # until a process that was asked to end is killed
OUTCOME = "outcome.json"
THREAD_VARIABLES = (  # set by joblib and Ray; the threads of a run follow from its settings
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True)
class Task:
    """What a job runs: its outcome so far, experiment and request as plain values, and two places.

    `sweep` is the directory of the sweep, `answer` the file that the outcome is written to.
    """

    started: dict[str, Any]
    experiment: dict[str, Any]
    request: dict[str, Any]
    sweep: str
    answer: str


def perform_isolated(
    started: JobOutcome, experiment: Experiment, request: Request, sweep: Path, digest: str
) -> JobOutcome:
    """Run a job in a process of its own, and return its outcome, also if it is killed.

    Args:
        started: The outcome of the job so far.
        experiment: What is run.
        request: How it was requested.
        sweep: The directory of the sweep.
        digest: The digest of the values of the experiment.
    """
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        task = Task(asdict(started), described(experiment), asdict(request), str(sweep), str(Path(scratch) / OUTCOME))
        environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
        command = [sys.executable, "-m", "quantexp.runner.isolated"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment)
        assert process.stdin is not None  # open until the process ends: it ends with the worker
        mark = Mark.write(sweep, digest, process.pid)
        try:
            with suppress(BrokenPipeError):
                print(json.dumps(asdict(task)), file=process.stdin, flush=True)
            while not _ended(process):
                mark.touch()
        except BaseException:
            _end(process)
            raise
        finally:
            mark.remove()
            with suppress(OSError):
                process.stdin.close()
        return _outcome(process.returncode, Path(task.answer), started, mark, experiment)


def _ended(process: subprocess.Popen[str]) -> bool:
    try:
        process.wait(Mark.PERIOD_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[str]) -> None:
    """Ask a process to close its run and end; kill it if it does not."""
    with suppress(OSError):
        process.terminate()
    try:
        process.wait(CLOSING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _outcome(status: int, answer: Path, started: JobOutcome, mark: Mark, experiment: Experiment) -> JobOutcome:
    """Return the outcome that the process wrote; without one, how it ended, which its run then says too."""
    if status == 0:
        return JobOutcome.restored(json.loads(answer.read_text(encoding="utf-8")))
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    hint = "; perhaps the memory was full" if status == -getattr(signal, "SIGKILL", 0) else ""
    error = f"its process was ended by {how}{hint}"
    log.error("this run failed: %s", error)
    from quantexp.tracking.processes import fail_runs_of
    from quantexp.tracking.store import open_store

    with suppress(Exception):  # the outcome says it too
        fail_runs_of(open_store(experiment.tracking), mark.process, error)
    return replace(started, state=State.failed, error=error)


def main() -> None:
    """Run the job of the task on stdin, and write its outcome. Exits with 130 if interrupted."""
    openmp.share_cores()
    interrupt.listen()
    _log_to_stderr()
    task = Task(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_worker, daemon=True).start()
    own_code.add_folder(Path.cwd())
    from quantexp.runner.job import perform

    try:
        with interrupt.guard():
            outcome = perform(
                JobOutcome.restored(task.started), restored(task.experiment), Request(**task.request), Path(task.sweep)
            )
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    Path(task.answer).write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def _end_with_worker() -> None:
    """Interrupt this process when its worker ends, as then nobody waits for the outcome."""
    sys.stdin.read()  # until the pipe is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CLOSING_SECONDS)
    os._exit(INTERRUPTED)


def _log_to_stderr() -> None:
    """Log as the command does: messages of quantexp, only warnings of libraries."""
    from quantexp.system.terminal import Handler

    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[Handler()])
    logging.getLogger("quantexp").setLevel(logging.INFO)


if __name__ == "__main__":
    main()

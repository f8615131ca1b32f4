"""Jobs that run in workers of a launcher: which are alive, on whichever host, and which were lost.

While a job runs, its worker touches a mark: a file in the sweep's directory that names the process of the job.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from quantexp.config import Tracking
from quantexp.runner.jobs import State, read_outcomes, write_json
from quantexp.system.errors import CacheError
from quantexp.tracking.processes import fail_runs_of, is_dead, mark, of_this_host
from quantexp.tracking.store import open_store

log = logging.getLogger(__name__)

RUNNING = ".running"
LOST = "its worker was killed, or its host was lost"


@dataclass(frozen=True)
class Mark:
    """The mark of a running job; `process` names its process."""

    PERIOD_SECONDS: ClassVar[float] = 5.0

    path: Path
    process: str

    @classmethod
    def write(cls, sweep: Path, digest: str, pid: int) -> Self:
        """Mark the job of a combination as running in the process `pid`. Raises CacheError."""
        made = cls(sweep / RUNNING / f"{digest}.json", mark(pid))
        write_json(made.path, {"process": made.process})
        return made

    @classmethod
    def all(cls, sweep: Path) -> Iterator[Self]:
        """Yield the marks of a sweep."""
        for path in (sweep / RUNNING).glob("*.json"):
            with suppress(OSError, ValueError, TypeError):  # just removed
                yield cls(path, **json.loads(path.read_text(encoding="utf-8")))

    @property
    def digest(self) -> str:
        """The digest of the combination."""
        return self.path.stem

    @property
    def touched(self) -> float:
        """When it was touched, by the clock of the file system."""
        with suppress(OSError):
            return self.path.stat().st_mtime
        return 0.0

    def touch(self) -> None:
        """Tell that the job still runs."""
        with suppress(OSError):
            os.utime(self.path)

    def remove(self) -> None:
        """Tell that the job does not run any more."""
        with suppress(OSError):
            self.path.unlink()


LOST_SECONDS = 6 * Mark.PERIOD_SECONDS  # without a sign of a job on another host
QUIET_SECONDS = 15.0  # without any job: long enough for a queued one to start
POLL_SECONDS = 0.5


def check_none_runs(folder: Path) -> None:
    """Check that no job of an earlier process runs, as one in Slurm goes on; forget the marks. Raises CacheError."""
    before = {each: each.touched for each in Mark.all(folder) if not is_dead(each.process)}
    if any(not of_this_host(each.process) for each in before):
        time.sleep(2 * Mark.PERIOD_SECONDS)  # to see which are touched
    if running := [each for each, then in before.items() if of_this_host(each.process) or each.touched != then]:
        outcome = read_outcomes(folder).get(running[0].digest)
        raise CacheError(
            f"{len(running)} jobs of the sweep in {folder} still run{f', as {outcome.asked}' if outcome else ''}; "
            "run the same command when they have ended"
        )
    for each in Mark.all(folder):
        each.remove()


def wait_for_jobs(folder: Path) -> list[Mark]:
    """Wait while jobs run in workers that their launcher gave up; return the marks of those that were lost.

    A job is lost if its process has ended, or if its mark is not touched any more. Jobs that wait in a queue start
    when others end, so it goes on until none has run for some seconds.
    """
    changed: dict[Path, tuple[float, float]] = {}  # by mark: when it was touched, and when that was seen
    last, told = time.monotonic(), False
    while True:
        now, lost = time.monotonic(), list[Mark]()
        for each in Mark.all(folder):
            if changed.get(each.path, (None, 0.0))[0] != (touched := each.touched):
                changed[each.path] = touched, now
            if is_dead(each.process) or now - changed[each.path][1] > LOST_SECONDS:
                lost.append(each)
            else:
                last = now
        if now - last > QUIET_SECONDS:
            return lost
        if last == now and not told:
            told = True
            log.info("waiting   for jobs that still run")
        time.sleep(POLL_SECONDS)


def report_lost(folder: Path, tracking: Tracking, lost: Sequence[Mark]) -> None:
    """Write that the workers of these jobs were killed, as outcomes and into their runs."""
    outcomes = read_outcomes(folder)
    for each in lost:
        if (outcome := outcomes.get(each.digest)) and outcome.state is State.running:
            replace(outcome, state=State.failed, error=LOST).write(folder, each.digest)
            with suppress(Exception):  # the report says what else is wrong with the store
                fail_runs_of(open_store(tracking), each.process, LOST)
        each.remove()

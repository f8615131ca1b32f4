"""A sweep from its first job to its table, across processes: launchers may run its jobs wherever they like.

What the jobs must know stands in `sweep.json` of the sweep's directory; each job leaves its outcome in a file of
its own folder. What was found out stands in the store, from where the table is made.
"""

from __future__ import annotations

import atexit
import json
import logging
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from quantexp.config import Experiment, Retry, Tracking
from quantexp.config import SweepSettings as Settings
from quantexp.results.sweep import UnsupportedEntry
from quantexp.system.errors import CacheError, ConfigError, QuantexpError
from quantexp.system.passwords import without_password
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.results.sweep import SweepResult
    from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

STATE, OUTCOME, LOCK = "sweep.json", "outcome.json", ".sweep.lock"

_held: filelock.BaseFileLock | None = None  # as long as this process lives


@dataclass(frozen=True)
class Plan:
    """How many combinations are run, the numbers of the jobs that are not, and those that do not exist.

    The jobs that are left out are those that do not exist, and those equal to an earlier one.
    """

    runs: int
    left_out: tuple[int, ...] = ()
    unsupported: tuple[UnsupportedEntry, ...] = ()

    def __str__(self) -> str:
        equal = len(self.left_out) - len(self.unsupported)
        parts = [f"{equal} equal to one of them"] if equal else []
        parts += [f"{len(self.unsupported)} that do not exist"] if self.unsupported else []
        return f"{self.runs} combinations{'; left out: ' if parts else ''}{', '.join(parts)}"


@dataclass(frozen=True)
class JobOutcome:
    """What became of one job: "done", "skipped" or "failed", what was asked for, and the error if it failed."""

    state: str
    asked: str
    error: str | None = None


@dataclass(frozen=True)
class Ongoing:
    """A sweep that goes on: its parent run, how many combinations it runs, and what stood in the store before.

    `done` has the name of each finished run by its identity, `failed` the configurations whose last run failed,
    `left_out` the numbers of the jobs that are not run, for they do not exist or are equal to another.
    """

    name: str
    parent: str
    total: int
    retry: Retry
    done: dict[str, str]
    failed: list[str]
    left_out: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Ongoing:
        """Read what the process that began the sweep wrote."""
        values: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return cls(**{**values, "retry": Retry(values["retry"])})

    def place(self, number: int) -> int:
        """Return the place of a job among those that are run, from 1 on."""
        return number + 1 - sum(other < number for other in self.left_out)

    def left(self, outcomes: Sequence[JobOutcome]) -> int:
        """Count the combinations that have no outcome; a sweeper of another kind may make more than were foreseen."""
        return max(0, self.total - len(outcomes))

    def reason_to_skip(self, experiment: Experiment) -> str | None:
        """Say why the combination need not be run, None if it must be. Raises DataError."""
        from quantexp.runner.identity import configuration_digest, identity_of

        if self.done and experiment.study.needs_data:  # what needs none is done again as fast
            from quantexp.mission import load

            identity = identity_of(experiment, load(experiment).fingerprint)
            if name := self.done.get(identity.digest):
                return f"done before: {name}"
        if self.retry is Retry.failed and configuration_digest(experiment) not in self.failed:
            return "left: sweep.retry=failed repeats only what failed"
        return None


def begin(folder: Path, tracking: Tracking, settings: Settings, planned: Plan, command: str) -> None:
    """Open the sweep in the store, and write what its jobs must know.

    Raises:
        ConfigError: If its directory cannot be written.
        CacheError: If another process runs the sweep.
        TrackingError: If the store cannot be used.
    """
    from quantexp.runner.sweep_results import log_unsupported, read_before
    from quantexp.tracking import sweeps
    from quantexp.tracking.processes import close_orphans
    from quantexp.tracking.store import open_store, tracking_errors
    from quantexp.tracking.views import save_view

    store = open_store(tracking)
    _hold(folder)
    for left in folder.glob(f"*/{OUTCOME}"):
        left.unlink()
    name = settings.name or folder.name
    save_view(store)
    with tracking_errors(f"the sweep {name} cannot be recorded"):
        parent = sweeps.begin(store, name, command, settings.resume)
        before = read_before(store, parent)
        log_unsupported(store, parent, planned.unsupported)
        close_orphans(store)
    ongoing = Ongoing(
        name, parent, planned.runs, settings.retry, before.done, sorted(before.failed), list(planned.left_out)
    )
    write_text(folder / STATE, json.dumps(asdict(ongoing), indent=1))
    atexit.register(_close, store, parent)
    known = f", {len(before.done)} runs of it are done" if before.done else ""
    log.info("sweep     %s: %s%s", name, planned, known)


def leave_outcome(folder: Path, job: Path, tracking: Tracking, outcome: JobOutcome) -> None:
    """Write down what became of a job, and on the parent run how far the sweep is."""
    try:
        write_text(job / OUTCOME, json.dumps(asdict(outcome), indent=1))
    except CacheError as error:  # the others shall go on
        log.error("%s", error)
    from quantexp.tracking import sweeps
    from quantexp.tracking.store import open_store

    ongoing, outcomes = Ongoing.read(folder), _outcomes(folder)
    failed = sum(one.state == "failed" for one in outcomes)
    with suppress(Exception):  # the runs themselves are recorded; how far the sweep is can be counted from them
        store = open_store(tracking)
        done = len(outcomes) - failed
        sweeps.log_state(store, ongoing.parent, done=done, failed=failed, left=ongoing.left(outcomes))


def sum_up(folder: Path, tracking: Tracking, *, interrupted: bool = False) -> int:
    """Print the sweep's report, write it into its directory and its parent run; return how many jobs failed."""
    from quantexp.reports import page
    from quantexp.runner.sweep_results import read_sweep
    from quantexp.tracking import sweeps
    from quantexp.tracking.store import open_store
    from quantexp.tracking.views import directions

    outcomes = _outcomes(folder)
    failures = [one for one in outcomes if one.state == "failed"]
    ongoing = Ongoing.read(folder)
    status = "KILLED" if interrupted else "FAILED" if failures else "FINISHED"
    try:
        store = open_store(tracking)
        found = read_sweep(store, ongoing.name)
        with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
            written = Path(scratch) / "report"
            written.mkdir()
            note = _write_report(found, written)
            sweeps.end(store, ongoing.parent, status, note, written)
            shutil.copytree(written, folder, dirs_exist_ok=True)
        show(f"the whole report: {folder / page.PAGE}")
        for line in directions(store, f"sweep {ongoing.name}", ongoing.parent):
            show(line)
    except QuantexpError as error:
        log.error("the sweep cannot be summed up: %s", error)
    except Exception as error:  # MLflow raises whatever its stores raise, a full disk an OSError
        log.error("the sweep cannot be summed up (%s: %s)", type(error).__name__, error)
    if failures:
        log.error("%d of %d combinations failed:", len(failures), ongoing.total)
        for failure in failures:
            log.error("  %s\n    %s", failure.asked, failure.error)
    if left := ongoing.left(outcomes):
        show(
            f"{left} of {ongoing.total} combinations are left; the same command with sweep.name={ongoing.name} goes on"
        )
    return len(failures)


def _write_report(sweep: SweepResult, folder: Path) -> str:
    """Show the lab's table and what follows from it, write the report; return a description of the sweep."""
    from quantexp.analysis.recommendation import recommend
    from quantexp.reports import page
    from quantexp.reports.sweep_table import summary_table

    table, paragraph = summary_table(sweep), recommend(sweep)
    if table.rows:
        show(table.rich())
    show(paragraph)
    page.write(sweep, folder)
    return f"{table.markdown()}\n{paragraph}\n\n    {sweep.command}"


def write_text(path: Path, text: str) -> None:
    """Write a file of the sweep's directory. Raises CacheError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CacheError(
            f"{path} cannot be written ({error.strerror or error}); the runs themselves are recorded in MLflow. "
            "Choose another folder with hydra.sweep.dir=FOLDER"
        ) from error


def command_line(arguments: Sequence[str]) -> str:
    """Return the command as it can be typed again, without passwords."""
    return str(without_password(shlex.join(["python", "-m", "quantexp", *arguments])))


def _hold(folder: Path) -> None:
    """Keep other processes from running the same sweep as long as this one lives."""
    global _held
    if _held is not None:
        _held.release()  # this process began another sweep, or this one, before
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()  # filelock would try for ever where no file can be made
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror or error}); a sweep keeps its report there: "
            "choose another folder with hydra.sweep.dir=FOLDER"
        ) from error
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise CacheError(
            f"another process runs the sweep in {folder}; wait for it, or choose another sweep.name"
        ) from None
    _held = lock


def _close(store: Store, parent: str) -> None:
    """Close the parent run as KILLED if the process ends before its sweep does."""
    from quantexp.tracking.sweeps import close_if_running

    with suppress(Exception):
        close_if_running(store, parent)


def _outcomes(folder: Path) -> list[JobOutcome]:
    """Return what the jobs left, by the number of the job."""
    paths = sorted(folder.glob(f"*/{OUTCOME}"), key=lambda path: (len(path.parent.name), path.parent.name))
    return [JobOutcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]

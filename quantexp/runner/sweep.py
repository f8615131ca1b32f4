"""A sweep from its first job to its report, across processes; the results are in the store."""

from __future__ import annotations

import atexit
import logging
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from quantexp.config import SweepSettings as Settings
from quantexp.config import Tracking
from quantexp.runner.jobs import JobOutcome, Mark, Ongoing, Plan, forget_outcomes, read_outcomes
from quantexp.system.errors import CacheError, ConfigError, QuantexpError
from quantexp.system.passwords import without_password
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.results.sweep import SweepResult
    from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

LOCK = ".sweep.lock"
LOST = "its worker was killed, or its host was lost"
LOST_SECONDS = 6 * Mark.PERIOD_SECONDS  # without a sign of a job on another host
QUIET_SECONDS = 15.0  # without any job: long enough for a queued one to start
POLL_SECONDS = 0.5

_held: filelock.BaseFileLock | None = None  # until this process ends


def begin(folder: Path, tracking: Tracking, settings: Settings, planned: Plan, command: str) -> None:
    """Open the sweep in the store, and write what its jobs need to know.

    Raises:
        ConfigError: If its directory is not writable.
        CacheError: If another process runs the sweep, or jobs of it that a launcher left behind.
        TrackingError: If the store cannot be used.
    """
    from quantexp.runner.sweep_results import log_unsupported, read_before
    from quantexp.tracking import sweeps
    from quantexp.tracking.processes import close_orphans
    from quantexp.tracking.store import open_store, tracking_errors
    from quantexp.tracking.views import save_view

    store = open_store(tracking)
    _hold(folder)
    _check_no_job_runs(folder)
    forget_outcomes(folder)
    name = settings.name or folder.name
    save_view(store)
    with tracking_errors(f"the sweep {name} cannot be recorded"):
        parent = sweeps.begin(store, name, command, settings.resume)
        before = read_before(store, parent)
        log_unsupported(store, parent, planned.unsupported)
        close_orphans(store)
        sweeps.log_objectives(store, parent, settings.objective or [])
    held = before.done, sorted(before.failed), list(planned.left_out), before.elsewhere, settings.objective or []
    Ongoing(name, parent, planned.runs, settings.retry, *held).write(folder)
    atexit.register(_close, store, parent)
    known = f", {len(before.done)} finished before" if before.done else ""
    log.info("sweep     %s: %s%s", name, planned, known)
    for entry in before.unreadable:
        log.warning("%s is run again, its result cannot be read: %s", entry.name, entry.reason)


def leave_outcome(folder: Path, job: Path, tracking: Tracking, outcome: JobOutcome) -> None:
    """Write the outcome of a job, and the state of the sweep to its parent run."""
    try:
        outcome.write(job)
    except CacheError as error:  # the other jobs must go on
        log.error("%s", error)
    from quantexp.tracking import sweeps
    from quantexp.tracking.store import open_store

    ongoing, outcomes = Ongoing.read(folder), read_outcomes(folder)
    failed = sum(other.state == "failed" for other in outcomes)
    with suppress(Exception):  # the runs themselves are recorded
        store = open_store(tracking)
        done = len(outcomes) - failed
        sweeps.log_state(store, ongoing.parent, done=done, failed=failed, left=ongoing.left(outcomes))


def settle(folder: Path, tracking: Tracking) -> None:
    """Count the jobs of a search that has ended: it may have made fewer than were allowed."""
    from quantexp.tracking import sweeps
    from quantexp.tracking.store import open_store

    outcomes = read_outcomes(folder)
    ongoing = replace(Ongoing.read(folder), total=len(outcomes))
    ongoing.write(folder)
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    with suppress(Exception):  # the report says what is wrong with the store
        sweeps.log_state(open_store(tracking), ongoing.parent, done=len(outcomes) - failed, failed=failed, left=0)


def wait_for_jobs(folder: Path) -> list[Mark]:
    """Wait while jobs run in workers that their launcher gave up; return the marks of those that were lost.

    A job is lost if its process has ended, or if its mark is not touched any more. Jobs that wait in a queue start
    when others end, so it goes on until none has run for some seconds.
    """
    from quantexp.tracking.processes import is_dead

    changed: dict[Path, tuple[float, float]] = {}  # by mark: when it was touched, and when that was seen
    last = time.monotonic()
    waited = False
    while True:
        now, lost = time.monotonic(), list[Mark]()
        for mark in Mark.all(folder):
            if changed.get(mark.path, (None, 0.0))[0] != (touched := mark.touched):
                changed[mark.path] = touched, now
            if is_dead(mark.process) or now - changed[mark.path][1] > LOST_SECONDS:
                lost.append(mark)
            else:
                last = now
        if now - last > QUIET_SECONDS:
            return lost
        if last == now and not waited:
            waited = True
            log.info("waiting   for jobs that still run; Ctrl-C ends this, not them")
        time.sleep(POLL_SECONDS)


def report_lost(folder: Path, tracking: Tracking, lost: Sequence[Mark]) -> None:
    """Write that the workers of these jobs were killed, as outcomes and into their runs."""
    from quantexp.tracking.processes import fail_runs_of
    from quantexp.tracking.store import open_store

    for mark in lost:
        JobOutcome("failed", mark.asked, LOST).write(folder / str(mark.number))
        with suppress(Exception):  # the report says what else is wrong with the store
            fail_runs_of(open_store(tracking), mark.process, LOST)
        mark.remove()


def sum_up(folder: Path, tracking: Tracking, *, interrupted: bool = False) -> int:
    """Print the sweep's report, write it to its directory and its parent run; return how many jobs failed."""
    from quantexp.tracking.store import open_store
    from quantexp.tracking.views import directions

    outcomes = read_outcomes(folder)
    failures = [outcome for outcome in outcomes if outcome.state == "failed"]
    ongoing = Ongoing.read(folder)
    status = "KILLED" if interrupted else "FAILED" if failures else "FINISHED"
    try:
        store = open_store(tracking)
        _report(store, ongoing, status, folder)
        for line in directions(store, f"sweep {ongoing.name}", ongoing.parent):
            show(line)
    except QuantexpError as error:
        log.error("the report of the sweep cannot be made: %s", error)
    except Exception as error:  # of MLflow's stores, or of a full disk
        log.error("the report of the sweep cannot be made (%s: %s)", type(error).__name__, error)
    if failures:
        log.error("%d of %d combinations failed:", len(failures), ongoing.total)
        for failure in failures:
            log.error("  %s\n    %s", failure.asked, failure.error)
    if left := ongoing.left(outcomes):
        show(
            f"{left} of {ongoing.total} combinations remain; "
            f"run the same command with sweep.name={ongoing.name} to resume"
        )
    return len(failures)


def _report(store: Store, ongoing: Ongoing, status: str, folder: Path) -> None:
    """Show the report, write it into the sweep's directory and its parent run, and close that.

    A report that has results which cannot be read any more is not replaced.
    """
    from quantexp.reports import page
    from quantexp.runner.report import full_csv, lost_results, recorded_csv
    from quantexp.runner.sweep_results import read_sweep
    from quantexp.tracking import sweeps

    found = read_sweep(store, ongoing.name)
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        written = Path(scratch) / "report"
        written.mkdir()
        note = _write_report(found, written)
        if found.unreadable and lost_results(recorded_csv(store, ongoing.parent), found):
            sweeps.end(store, ongoing.parent, status)
        else:
            sweeps.end(store, ongoing.parent, status, note, written)
        if lost := lost_results(full_csv(folder), found):
            log.error("%s keeps its report: %s", folder, lost)
            return
        shutil.copytree(written, folder, dirs_exist_ok=True)
    show(f"the whole report: {folder / page.PAGE}")


def _write_report(sweep: SweepResult, folder: Path) -> str:
    """Show the summary and the recommendation, write the report; return a description of the sweep."""
    from quantexp.analysis.recommendation import recommend
    from quantexp.reports import page
    from quantexp.reports.sweep_table import summary_table

    table, paragraph = summary_table(sweep), recommend(sweep)
    if table.rows:
        show(table.rich())
    show(paragraph)
    page.write(sweep, folder)
    return f"{table.markdown()}\n{paragraph}\n\n    {sweep.command}"


def command_line(arguments: Sequence[str]) -> str:
    """Return the command as it is typed, without passwords."""
    return str(without_password(shlex.join(["python", "-m", "quantexp", *arguments])))


def _hold(folder: Path) -> None:
    """Keep other processes from running the same sweep until this one ends."""
    global _held
    if _held is not None:
        _held.release()  # of a sweep that this process began before
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()  # filelock would try forever in a folder that is not writable
    except OSError as error:
        raise ConfigError(
            f"{folder} is not writable ({error.strerror or error}); a sweep writes its report there: "
            "choose another folder with hydra.sweep.dir=FOLDER"
        ) from error
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise CacheError(
            f"another process runs the sweep in {folder}; wait until it ends, or choose another sweep.name"
        ) from None
    _held = lock


def _check_no_job_runs(folder: Path) -> None:
    """Check that no job runs that an earlier process began, as one in Slurm goes on. Raises CacheError."""
    from quantexp.tracking.processes import is_dead, of_this_host

    before = {mark: mark.touched for mark in Mark.all(folder) if not is_dead(mark.process)}
    if any(not of_this_host(mark.process) for mark in before):
        time.sleep(2 * Mark.PERIOD_SECONDS)  # to see which are touched
    running = [mark for mark, then in before.items() if of_this_host(mark.process) or mark.touched != then]
    if running:
        raise CacheError(
            f"{len(running)} jobs of the sweep in {folder} still run, the first is {running[0].asked}; "
            "run the same command when they have ended"
        )


def _close(store: Store, parent: str) -> None:
    """Close the parent run as KILLED if the process ends before its sweep does."""
    from quantexp.tracking.sweeps import close_if_running

    with suppress(Exception):
        close_if_running(store, parent)

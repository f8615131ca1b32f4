"""A sweep from its first job to its report, across processes; the results are in the store."""

from __future__ import annotations

import atexit
import logging
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from quantexp.config import SweepSettings as Settings
from quantexp.config import Tracking
from quantexp.runner.jobs import JobOutcome, Ongoing, Plan, forget_outcomes, read_outcomes
from quantexp.system.errors import CacheError, ConfigError, QuantexpError
from quantexp.system.passwords import without_password
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.results.sweep import SweepResult
    from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

LOCK = ".sweep.lock"

_held: filelock.BaseFileLock | None = None  # until this process ends


def begin(folder: Path, tracking: Tracking, settings: Settings, planned: Plan, command: str) -> None:
    """Open the sweep in the store, and write what its jobs need to know.

    Raises:
        ConfigError: If its directory is not writable.
        CacheError: If another process runs the sweep.
        TrackingError: If the store cannot be used.
    """
    from quantexp.runner.sweep_results import log_unsupported, read_before
    from quantexp.runner.tracked import tell
    from quantexp.tracking import sweeps
    from quantexp.tracking.delivery import deliver_waiting
    from quantexp.tracking.processes import close_orphans
    from quantexp.tracking.store import open_store, tracking_errors
    from quantexp.tracking.views import save_view

    store = open_store(tracking)
    _hold(folder)
    forget_outcomes(folder)
    name = settings.name or folder.name
    save_view(store)
    tell(deliver_waiting(tracking))  # a combination whose result waited is finished then
    with tracking_errors(f"the sweep {name} cannot be recorded", store.uri):
        parent = sweeps.begin(store, name, command, settings.resume)
        before = read_before(store, parent)
        log_unsupported(store, parent, planned.unsupported)
        close_orphans(store)
    held = before.done, sorted(before.failed), list(planned.left_out)
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


def sum_up(folder: Path, tracking: Tracking, *, interrupted: bool = False) -> int:
    """Print the sweep's report, write it to its directory and its parent run; return how many jobs failed."""
    from quantexp.runner.tracked import tell
    from quantexp.tracking import sweeps
    from quantexp.tracking.delivery import deliver_waiting
    from quantexp.tracking.store import open_store
    from quantexp.tracking.views import directions

    outcomes = read_outcomes(folder)
    failures = [outcome for outcome in outcomes if outcome.state == "failed"]
    ongoing = Ongoing.read(folder)
    status = "KILLED" if interrupted else "FAILED" if failures else "FINISHED"
    store: Store | None = None
    try:
        store = open_store(tracking)
        tell(deliver_waiting(tracking))
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
    left = ongoing.left(outcomes)
    if store is None:
        done = len(outcomes) - len(failures)
        with suppress(OSError):
            sweeps.keep_end(tracking, ongoing.parent, ongoing.name, status, done=done, failed=len(failures), left=left)
    kept = _kept(tracking, ongoing.parent)
    if left:
        show(
            f"{left} of {ongoing.total} combinations remain; "
            f"run the same command with sweep.name={ongoing.name} to resume"
        )
    return len(failures) + kept


def _kept(tracking: Tracking, parent: str) -> int:
    """Count the results of the sweep that wait for the store, and say how they are delivered."""
    from quantexp.tracking.names import PARENT
    from quantexp.tracking.outbox import outbox_of, waiting

    outbox = outbox_of(tracking)
    kept = sum(record.tags.get(PARENT) == parent for record in waiting(outbox))
    if kept:
        log.error(
            "%d results are kept, not delivered yet; run the same command again when the store answers, "
            "or python -m quantexp.sync %s",
            kept,
            shlex.quote(str(outbox)),
        )
    return kept


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


def _close(store: Store, parent: str) -> None:
    """Close the parent run as KILLED if the process ends before its sweep does."""
    from quantexp.tracking.sweeps import close_if_running

    with suppress(Exception):
        close_if_running(store, parent)

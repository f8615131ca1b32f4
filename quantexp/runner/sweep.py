"""A sweep from its first job to its report, across processes; the results are in the store."""

from __future__ import annotations

import atexit
import logging
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from quantexp.config import SweepSettings as Settings
from quantexp.config import Tracking, Unsupported
from quantexp.runner.jobs import JobOutcome, Ongoing, Plan, State, fixed_settings, forget_outcomes, read_outcomes
from quantexp.runner.running import check_none_runs
from quantexp.system.cache import copy_atomically
from quantexp.system.errors import CacheError, ConfigError, QuantexpError
from quantexp.system.garbage import uncollected
from quantexp.system.passwords import without_password
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.results.sweep import SweepResult
    from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

LOCK = ".sweep.lock"
STATE_SECONDS = 5.0  # between two records of the state, which needs the outcomes of all jobs
LONGEST = 300  # characters of an error of MLflow

_held: filelock.BaseFileLock | None = None  # until this process ends
_shown = "", 0.0  # the parent run whose state this process recorded last, and when


def begin(folder: Path, tracking: Tracking, settings: Settings, planned: Plan, command: str) -> None:
    """Open the sweep in the store, and write what its jobs need to know.

    Raises:
        ConfigError: If its directory is not writable.
        CacheError: If another process runs the sweep, or jobs that an earlier one began still run.
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
    check_none_runs(folder)
    forget_outcomes(folder)
    name = settings.name or folder.name
    save_view(store)
    check_place(store, name, folder)
    for place in _places(tracking, planned.kept_in):
        tell(deliver_waiting(place))  # a combination whose result waited is finished then
    with tracking_errors(f"the sweep {name} cannot be recorded", store.uri):
        parent = sweeps.begin(store, name, command, settings.resume, folder)
        before = read_before(store, parent)
        log_unsupported(store, parent, planned.unsupported)
        close_orphans(store)
        sweeps.log_objectives(store, parent, settings.objective or [])
    Ongoing(
        name,
        parent,
        planned.combinations,
        settings.retry,
        before.done,
        sorted(before.failed),
        folder=str(Path.cwd()),
        fixed=fixed_settings(tracking, settings),
        skips=settings.unsupported is Unsupported.skip,
        elsewhere=before.elsewhere,
        objectives=settings.objective or [],
        kept_in=list(planned.kept_in),
    ).write(folder)
    atexit.register(_close, store, parent)
    known = f", {len(before.done)} finished before" if before.done else ""
    log.info("sweep     %s: %s%s", name, planned, known)
    for entry in before.unreadable:
        log.warning("%s is run again, its result cannot be read: %s", entry.name, entry.reason)


def leave_outcome(folder: Path, tracking: Tracking, digest: str, outcome: JobOutcome) -> None:
    """Write the outcome of a job, and now and then the state of the sweep to its parent run."""
    try:
        outcome.write(folder, digest)
    except CacheError as error:  # the other jobs must go on
        log.error("%s", error)
    from quantexp.tracking import sweeps
    from quantexp.tracking.store import open_store

    global _shown
    with suppress(Exception):  # the runs themselves are recorded
        ongoing, now = Ongoing.read(folder), time.monotonic()
        if ongoing.parent == _shown[0] and now - _shown[1] < STATE_SECONDS:
            return
        _shown = ongoing.parent, now
        sweeps.log_state(open_store(tracking), ongoing.parent, **ongoing.counts(read_outcomes(folder)))


def sum_up(folder: Path, tracking: Tracking, *, interrupted: bool = False) -> bool:
    """Print the sweep's report, write it to its directory and its parent run.

    Returns whether every combination has a result in the store and the report was written.

    Raises:
        CacheError: If the files of the sweep cannot be read.
    """
    ongoing, outcomes = Ongoing.read(folder), read_outcomes(folder)
    failures = [outcome for outcome in outcomes.values() if outcome.state is State.failed]
    missing = ongoing.missing(outcomes)
    complete = not failures and not missing and bool(outcomes)
    status = "KILLED" if interrupted else "FINISHED" if complete else "FAILED"
    reported = _reported(folder, tracking, ongoing, outcomes, status)
    total = ongoing.total(outcomes)
    if failures:
        log.error("%d of %d combinations failed:", len(failures), total)
        for failure in failures:
            log.error("  %s\n    %s", failure.asked, failure.error)
    kept = _kept(tracking, ongoing)
    if missing and not interrupted:
        log.error(
            "%d of %d combinations have no result: their jobs were killed, or never started:", len(missing), total
        )
        for asked in missing:
            log.error("  %s", asked)
    if missing:
        show(
            f"{len(missing)} of {total} combinations remain; "
            f"run the same command with sweep.name={ongoing.name} to resume"
        )
    if not outcomes and not interrupted:
        log.error("no job of the sweep has run")
    return complete and reported and not kept


@uncollected()
def _reported(folder: Path, tracking: Tracking, ongoing: Ongoing, outcomes: dict[str, JobOutcome], status: str) -> bool:
    """Make the report of a sweep and say where its runs are; return whether it was written, with every result."""
    from quantexp.runner.tracked import tell
    from quantexp.tracking import sweeps
    from quantexp.tracking.delivery import deliver_waiting
    from quantexp.tracking.store import open_store
    from quantexp.tracking.views import directions

    store: Store | None = None
    try:
        store = open_store(tracking)
        for place in _places(tracking, ongoing.kept_in):
            tell(deliver_waiting(place))
        sweeps.log_state(store, ongoing.parent, **ongoing.counts(outcomes))
        written = _report(store, ongoing, outcomes, status, folder)
        for line in directions(store, f"sweep {ongoing.name}", ongoing.parent):
            show(line)
    except QuantexpError as error:
        log.error("the report of the sweep cannot be made: %s", error)
    except Exception as error:  # of MLflow's stores, or of a full disk
        reason = without_password(" ".join(str(error).split()))[:LONGEST]
        log.error("the report of the sweep cannot be made (%s: %s)", type(error).__name__, reason)
    else:
        return written
    if store is None:  # it does not answer: the end of the sweep is delivered with its results
        counts = ongoing.counts(outcomes)
        with suppress(OSError):
            sweeps.keep_end(tracking, ongoing.parent, ongoing.name, status, **counts)
    return False


def _places(tracking: Tracking, kept_in: Iterable[str | None]) -> Iterator[Tracking]:
    """Yield the tracking settings with each folder in which results of the sweep wait, as `cache_dir` may be swept."""
    for folder in dict.fromkeys([tracking.keep_in, *kept_in]):
        yield replace(tracking, keep_in=folder)


def _kept(tracking: Tracking, ongoing: Ongoing) -> int:
    """Count the results of the sweep that wait for the store, and say how they are delivered."""
    from quantexp.tracking.names import PARENT
    from quantexp.tracking.outbox import outbox_of, waiting

    outboxes = [outbox_of(place) for place in _places(tracking, ongoing.kept_in)]
    counts = {box: sum(record.tags.get(PARENT) == ongoing.parent for record in waiting(box)) for box in outboxes}
    if kept := sum(counts.values()):
        log.error(
            "%d results are kept, not delivered yet; run the same command again when the store answers, "
            "or python -m quantexp.sync %s",
            kept,
            shlex.join(str(outbox) for outbox, count in counts.items() if count),
        )
    return kept


def _report(store: Store, ongoing: Ongoing, outcomes: dict[str, JobOutcome], status: str, folder: Path) -> bool:
    """Show the report, write it into the sweep's directory and its parent run, and close that.

    A report that has results which cannot be read any more is not replaced. Returns whether the report was written, and
    has a result of every job that is done.
    """
    from quantexp.reports import page
    from quantexp.runner.report import full_csv, lost_results, recorded_csv
    from quantexp.runner.sweep_results import read_sweep
    from quantexp.tracking import sweeps

    found = read_sweep(store, ongoing.name)
    absent = _absent(found, outcomes)
    status = "FAILED" if absent and status == "FINISHED" else status
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
            return False
        shutil.copytree(written, folder, dirs_exist_ok=True, copy_function=copy_atomically)
    show(f"the whole report: {_short(folder / page.PAGE)}")
    if absent:
        total = ongoing.total(outcomes)
        log.error("%d of %d combinations have no result in the store that can be read:", len(absent), total)
        for outcome in absent:
            log.error("  %s", outcome.asked)
        log.error("run the same command again; a result that waits on another host is delivered by quantexp.sync there")
    return not absent


def _absent(sweep: SweepResult, outcomes: dict[str, JobOutcome]) -> list[JobOutcome]:
    """Return the jobs that are done and whose results the sweep does not have."""
    found = {entry.configuration for entry in sweep.entries if entry.report}
    return [outcome for outcome in outcomes.values() if outcome.configuration and outcome.configuration not in found]


def _short(path: Path) -> Path:
    """Return a path from the working directory, if it lies there."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _write_report(sweep: SweepResult, folder: Path) -> str:
    """Show the summary and the recommendation, write the report; return a description of the sweep."""
    from quantexp.analysis.recommendation import recommend
    from quantexp.reports import page
    from quantexp.reports.sweep_table import leading_table, summary_table
    from quantexp.runner.report import MOST_ROWS

    table, paragraph = leading_table(sweep) or summary_table(sweep), recommend(sweep)
    if table.rows:
        show(table.cut(MOST_ROWS).rich())
    show(paragraph)
    page.write(sweep, folder)
    return f"{table.markdown()}\n{paragraph}\n\n    {sweep.command}"


def command_line(arguments: Sequence[str]) -> str:
    """Return the command as it is typed, without passwords."""
    return str(without_password(shlex.join(["python", "-m", "quantexp", *arguments])))


def check_place(store: Store, name: str, folder: Path) -> None:
    """Check that no other folder has the sweep of this name: a server has the sweeps of all. Raises ConfigError."""
    from quantexp.tracking.names import FOLDER
    from quantexp.tracking.sweeps import begun_here

    begun = None if store.database else begun_here(store, name)  # a SQLite file is moved and copied with its folder
    if begun is None:
        return
    other = Path(begun.tags.get(FOLDER, folder))
    with suppress(CacheError):  # it was removed, or another sweep was begun there
        if other.resolve() != folder.resolve() and Ongoing.read(other).parent == begun.run_id:
            raise ConfigError(
                f"the tracking server has a sweep {name} whose directory is {other}; choose another sweep.name, or "
                f"resume that sweep with hydra.sweep.dir={other}"
            )


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

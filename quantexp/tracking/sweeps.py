"""A sweep in the store: a parent run, and a child for each combination that was tried.

The same name on the same host is the same sweep. If it is not resumed, a new parent begins, and only the latest one
counts. Another host that runs a sweep of this name has its own parent.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantexp.config import Tracking
from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password
from quantexp.tracking.address import bare
from quantexp.tracking.names import COMMAND, FOLDER, KIND, NOTE, OBJECTIVES, PARENT, PROCESS, SWEEP, as_note
from quantexp.tracking.outbox import Record, Sample, keep, outbox_of
from quantexp.tracking.processes import mark
from quantexp.tracking.store import RunFacts, Store

LEFT, DONE, FAILED = "left", "done", "failed"  # metrics of the parent run


def begin(store: Store, name: str, command: str, resume: bool, folder: Path | None = None) -> str:
    """Open the parent run of a sweep, a new one or, to resume, the existing one; return its id."""
    tags = {PROCESS: mark(), COMMAND: command, **({FOLDER: str(folder)} if folder else {})}
    found = begun_here(store, name) if resume else None
    if found is None:
        tags |= {KIND: "sweep", SWEEP: name, "host": platform.node(), "mlflow.source.name": "quantexp"}
        return str(store.client.create_run(store.experiment_id, run_name=f"sweep {name}", tags=tags).info.run_id)
    for tag, value in tags.items():
        store.client.set_tag(found.run_id, tag, value)
    store.client.update_run(found.run_id, status="RUNNING")
    return found.run_id


def begun_here(store: Store, name: str) -> RunFacts | None:
    """Return the latest parent run of a sweep on this host, None if there is none."""
    return next((run for run in _named(store, name) if host_of(run) == platform.node()), None)


def log_objectives(store: Store, parent: str, names: Sequence[str]) -> None:
    """Record what a sweep improves in its parent run."""
    if names:
        store.client.set_tag(parent, OBJECTIVES, ",".join(names))


def log_state(store: Store, parent: str, *, done: int, failed: int, left: int) -> None:
    """Record the state of the sweep in its parent run."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    values = {DONE: done, FAILED: failed, LEFT: left}
    store.client.log_batch(parent, metrics=[Metric(name, value, now, done + failed) for name, value in values.items()])


def end(store: Store, parent: str, status: str, note: str | None = None, folder: Path | None = None) -> None:
    """Close the parent run with its status and, if given, its description and the files of its report."""
    if note is not None:
        store.client.set_tag(parent, NOTE, as_note(note))
    if folder is not None:
        store.log_files(parent, folder, "report")
    store.client.set_terminated(parent, status)


def keep_end(tracking: Tracking, parent: str, name: str, status: str, *, done: int, failed: int, left: int) -> None:
    """Keep the end of a sweep on disk, as its store does not answer. Raises OSError."""
    now = int(time.time() * 1000)
    values = {DONE: done, FAILED: failed, LEFT: left}
    samples = [Sample(metric, value, done + failed, now) for metric, value in values.items()]
    where = bare(tracking.uri), tracking.experiment
    kept = keep(
        outbox_of(tracking),
        Record(*where, f"sweep {name}", mark(), now, run_id=parent, samples=samples, status=status, ended_ms=now),
    )
    kept.write()
    kept.release()


def close_if_running(store: Store, parent: str) -> None:
    """Close the parent run as KILLED if its sweep did not end."""
    if store.run(parent).status == "RUNNING":
        store.client.set_terminated(parent, "KILLED")


def parents(store: Store, name: str) -> list[RunFacts]:
    """Return the parent runs of a sweep, the latest of each host, by its name or by the id of one.

    Raises:
        TrackingError: If there is none.
    """
    found: dict[str, RunFacts] = {}
    for run in _named(store, name):
        found.setdefault(host_of(run), run)
    if not found:
        known = sorted({run.tags[SWEEP] for run in store.search(f"tags.`{KIND}` = 'sweep'")})
        there = f"it has {', '.join(known[-10:])}" if known else "it has none"
        raise TrackingError(f"{without_password(store.uri)} has no sweep {name!r}; {there}")
    return list(found.values())


def children(store: Store, parent: str) -> list[RunFacts]:
    """Return the runs of a sweep in the order in which they were started."""
    return sorted(store.search(f"tags.`{PARENT}` = '{parent}'"), key=lambda run: run.started_ms)


def host_of(run: RunFacts) -> str:
    """Return the host of a run."""
    return run.tags.get("host", "")


def _named(store: Store, name: str) -> Iterator[RunFacts]:
    """Yield the parent runs of a sweep, the latest first, by its name or by the id of one."""
    if "'" in name or "\\" in name:
        return
    yield from store.search(f"tags.`{KIND}` = 'sweep' and tags.`{SWEEP}` = '{name}'")
    yield from store.search(f"tags.`{KIND}` = 'sweep' and attributes.run_id = '{name}'")

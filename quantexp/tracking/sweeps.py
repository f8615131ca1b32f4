"""A sweep in the store: a parent run, and a child for each combination that was tried.

A name that is used again on the same host means the same sweep, unless it shall not go on: then a new parent
begins, and only the latest one counts. Another host that runs a sweep of this name has a parent of its own, and
what is read back holds both.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.config import Tracking
from quantexp.results import parse_report
from quantexp.results.sweep import Entry, Sweep, UnsupportedEntry
from quantexp.system.errors import TrackingError
from quantexp.tracking.artifacts import read_artifact
from quantexp.tracking.names import (
    COMMAND,
    CONFIGURATION,
    IDENTITY,
    KIND,
    NOTE,
    PARENT,
    PROCESS,
    REPORT_FILE,
    SWEEP,
    UNSUPPORTED_FILE,
)
from quantexp.tracking.processes import mark
from quantexp.tracking.store import Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run

LEFT = "left"  # metrics of the parent run, as are these
DONE, FAILED, UNSUPPORTED = "done", "failed", "unsupported"
MOST_CHARACTERS = 8000  # of a note


@dataclass(frozen=True)
class Before:
    """What a sweep holds when it goes on: finished runs by their identity, configurations whose last run failed."""

    done: dict[str, str]
    failed: frozenset[str]


def begin(store: Store, name: str, command: str, resume: bool) -> tuple[str, Before]:
    """Open the parent run of a sweep, a new one or, to go on, the one that there is; say what stands there."""
    tags = {PROCESS: mark(), COMMAND: command}
    found = next((run for run in _parents(store, name) if _host(run) == platform.node()), None) if resume else None
    if found is None:
        tags |= {KIND: "sweep", SWEEP: name, "host": platform.node(), "mlflow.source.name": "quantexp"}
        parent = store.client.create_run(store.experiment_id, run_name=f"sweep {name}", tags=tags)
        return parent.info.run_id, Before({}, frozenset())
    for tag, value in tags.items():
        store.client.set_tag(found.info.run_id, tag, value)
    store.client.update_run(found.info.run_id, status="RUNNING")
    children = list(_latest(store, found.info.run_id))
    return found.info.run_id, Before(
        {run.data.tags[IDENTITY]: run.info.run_name for run in children if _finished(run)},
        frozenset(run.data.tags[CONFIGURATION] for run in children if run.info.status == "FAILED"),
    )


def log_state(store: Store, parent: str, *, done: int, failed: int, left: int) -> None:
    """Write on the parent run how far its sweep is."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    values = {DONE: done, FAILED: failed, LEFT: left}
    store.client.log_batch(parent, metrics=[Metric(name, value, now, done + failed) for name, value in values.items()])


def log_unsupported(store: Store, parent: str, entries: Sequence[UnsupportedEntry]) -> None:
    """Record the combinations that do not exist beside those that the sweep was asked for before."""
    before: Sequence[UnsupportedEntry] = ()
    with suppress(TrackingError):  # what was damaged is written anew
        before = _unsupported(store, store.client.get_run(parent))
    if known := _different([*before, *entries]):
        text = json.dumps([asdict(entry) for entry in known], indent=1)
        store.client.log_text(parent, text, UNSUPPORTED_FILE)
        store.client.log_metric(parent, UNSUPPORTED, len(known))


def end(store: Store, parent: str, status: str, note: str, folder: Path | None) -> None:
    """Close the parent run: its description, the files of the report, and how the sweep ended."""
    store.client.set_tag(parent, NOTE, note[:MOST_CHARACTERS])
    if folder is not None:
        store.client.log_artifacts(parent, str(folder), "report")
    store.client.set_terminated(parent, status)


def read_sweep(tracking: Tracking, name: str) -> Sweep:
    """Read a sweep by its name, from all hosts, or by the id of its parent run.

    Raises:
        TrackingError: If the store cannot be read, or holds no such sweep.
    """
    store = open_store(tracking, must_exist=True)
    try:
        return read(store, name)
    except TrackingError:
        raise
    except Exception as error:  # MLflow raises whatever its stores raise
        raise TrackingError(f"the sweep {name} cannot be read ({type(error).__name__}: {error})") from error


def read(store: Store, name: str) -> Sweep:
    """Read a sweep from a store that is open. Raises TrackingError if there is none."""
    parents: dict[str, Run] = {}
    for run in _parents(store, name):
        parents.setdefault(_host(run), run)
    if not parents:
        known = sorted({run.data.tags[SWEEP] for run in store.search(f"tags.`{KIND}` = 'sweep'")})
        there = f"it holds {', '.join(known[-10:])}" if known else "it holds none"
        raise TrackingError(f"{store.uri} holds no sweep called {name!r}; {there}")
    first = next(iter(parents.values()))
    entries = [_entry(store, run) for parent in parents.values() for run in _latest(store, parent.info.run_id)]
    return Sweep(
        name=first.data.tags[SWEEP],
        command=first.data.tags.get(COMMAND, ""),
        entries=tuple(entry for entry in entries if entry.report or entry.error),
        left=sum(int(parent.data.metrics.get(LEFT, 0)) for parent in parents.values()),
        unsupported=_different([entry for parent in parents.values() for entry in _unsupported(store, parent)]),
    )


def _unsupported(store: Store, parent: Run) -> tuple[UnsupportedEntry, ...]:
    """Return the combinations that do not exist, none where the sweep recorded none. Raises TrackingError."""
    from pydantic import TypeAdapter

    if not parent.data.metrics.get(UNSUPPORTED):
        return ()
    content = read_artifact(store.client, parent.info.run_id, UNSUPPORTED_FILE)
    try:
        return TypeAdapter(tuple[UnsupportedEntry, ...]).validate_json(content)
    except ValueError as error:
        raise TrackingError(f"{UNSUPPORTED_FILE} of run {parent.info.run_id} cannot be read ({error})") from error


def _different(entries: Sequence[UnsupportedEntry]) -> tuple[UnsupportedEntry, ...]:
    """Return one of each, however it was typed."""
    return tuple({json.dumps(entry.settings, sort_keys=True): entry for entry in entries}.values())


def _parents(store: Store, name: str) -> Iterator[Run]:
    """Yield the parent runs of a sweep, the latest first, by its name or by the id of one."""
    if "'" in name or "\\" in name:
        return
    yield from store.search(f"tags.`{KIND}` = 'sweep' and tags.`{SWEEP}` = '{name}'")
    yield from store.search(f"tags.`{KIND}` = 'sweep' and attributes.run_id = '{name}'")


def _latest(store: Store, parent: str) -> Iterator[Run]:
    """Yield one child for each configuration, in the order in which they were first tried.

    It is the last that finished; where none did, the last that failed, or was left.
    """
    chosen: dict[str, Run] = {}
    for run in sorted(store.search(f"tags.`{PARENT}` = '{parent}'"), key=lambda run: run.info.start_time):
        key = run.data.tags.get(CONFIGURATION, run.info.run_id)
        if key not in chosen or _rank(run) >= _rank(chosen[key]):
            chosen[key] = run
    yield from chosen.values()


def _rank(run: Run) -> int:
    return 2 if _finished(run) else 1 if run.info.status == "FAILED" else 0


def _finished(run: Run) -> bool:
    return run.info.status == "FINISHED" and IDENTITY in run.data.tags


def _host(run: Run) -> str:
    return str(run.data.tags.get("host", ""))


def _entry(store: Store, run: Run) -> Entry:
    named = run.info.run_id, run.info.run_name or run.info.run_id, dict(run.data.params)
    if not _finished(run):
        error = run.data.tags.get("error", "it has no error") if run.info.status == "FAILED" else None
        return Entry(*named, report=None, error=error)
    try:
        return Entry(*named, report=parse_report(read_artifact(store.client, run.info.run_id, REPORT_FILE)))
    except Exception as error:  # a store may hold what another version wrote, or lack what it should hold
        reason = " ".join(str(error).split())[:200]
        return Entry(*named, report=None, error=f"its report cannot be read ({type(error).__name__}: {reason})")

"""What a sweep found out, read back from the store: when it is resumed, and when its report is made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from quantexp.results.sweep import Entry, SweepResult, UnsupportedEntry
from quantexp.runner.finished import read_report
from quantexp.system.errors import TrackingError
from quantexp.tracking.artifacts import read_artifact
from quantexp.tracking.names import COMMAND, CONFIGURATION, ERROR, IDENTITY, SWEEP
from quantexp.tracking.store import RunFacts, Store
from quantexp.tracking.sweeps import LEFT, children, parents

UNSUPPORTED = "unsupported"  # metric of the parent run
UNSUPPORTED_FILE = "unsupported.json"  # of the parent run: the combinations that are not supported


@dataclass(frozen=True)
class Before:
    """What a sweep holds when it is resumed: finished runs by their identity, configurations whose last run failed."""

    done: dict[str, str]
    failed: frozenset[str]


def read_before(store: Store, parent: str) -> Before:
    """Read what a sweep holds that is resumed. Raises TrackingError."""
    runs = _latest(children(store, parent))
    return Before(
        {run.tags[IDENTITY]: run.name for run in runs if run.finished},
        frozenset(run.tags[CONFIGURATION] for run in runs if run.status == "FAILED"),
    )


def read_sweep(store: Store, name: str) -> SweepResult:
    """Read a sweep by its name, from all hosts, or by the id of its parent run.

    Raises:
        TrackingError: If the store cannot be read, or holds no such sweep.
    """
    found = parents(store, name)
    entries = [_entry(store, run) for parent in found for run in _latest(children(store, parent.run_id))]
    return SweepResult(
        name=found[0].tags[SWEEP],
        command=found[0].tags.get(COMMAND, ""),
        entries=tuple(entry for entry in entries if entry.report or entry.error),
        left=sum(int(parent.metrics.get(LEFT, 0)) for parent in found),
        unsupported=_different([entry for parent in found for entry in _unsupported(store, parent)]),
    )


def log_unsupported(store: Store, parent: str, entries: Sequence[UnsupportedEntry]) -> None:
    """Record the combinations that are not supported beside those that were requested before. Raises TrackingError."""
    from quantexp.tracking.run import Point, TrackedRun

    run = store.run(parent)
    before: Sequence[UnsupportedEntry] = ()
    with suppress(TrackingError):  # a damaged file is written anew
        before = _unsupported(store, run)
    if known := _different([*before, *entries]):
        tracked = TrackedRun(store, parent, run.name)
        tracked.log_text(UNSUPPORTED_FILE, json.dumps([asdict(entry) for entry in known], indent=1))
        tracked.log([Point(UNSUPPORTED, len(known))])


def _unsupported(store: Store, parent: RunFacts) -> tuple[UnsupportedEntry, ...]:
    """Return the combinations that are not supported, none where the sweep recorded none. Raises TrackingError."""
    from pydantic import TypeAdapter

    if not parent.metrics.get(UNSUPPORTED):
        return ()
    content = read_artifact(store, parent, UNSUPPORTED_FILE)
    try:
        return TypeAdapter(tuple[UnsupportedEntry, ...]).validate_json(content)
    except ValueError as error:
        raise TrackingError(f"{UNSUPPORTED_FILE} of run {parent.run_id} cannot be read ({error})") from error


def _different(entries: Sequence[UnsupportedEntry]) -> tuple[UnsupportedEntry, ...]:
    """Return each combination once, however it was typed."""
    return tuple({json.dumps(entry.settings, sort_keys=True): entry for entry in entries}.values())


def _latest(runs: Iterable[RunFacts]) -> list[RunFacts]:
    """Return one run for each configuration, in the order in which they were first tried.

    It is the last that finished; where none did, the last that failed or did not end.
    """
    chosen: dict[str, RunFacts] = {}
    for run in runs:
        key = run.tags.get(CONFIGURATION, run.run_id)
        if key not in chosen or _rank(run) >= _rank(chosen[key]):
            chosen[key] = run
    return list(chosen.values())


def _rank(run: RunFacts) -> int:
    return 2 if run.finished else 1 if run.status == "FAILED" else 0


def _entry(store: Store, run: RunFacts) -> Entry:
    named = run.run_id, run.name, run.params
    if not run.finished:
        error = run.tags.get(ERROR, "it has no error") if run.status == "FAILED" else None
        return Entry(*named, report=None, error=error)
    try:
        return Entry(*named, report=read_report(store, run))
    except TrackingError as error:
        return Entry(*named, report=None, error=f"its report cannot be read ({error})")

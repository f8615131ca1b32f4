"""The results of a sweep, read from the store: to resume it, and for its report."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from quantexp.results import Report
from quantexp.results.sweep import Entry, SweepResult, UnreadableEntry, UnsupportedEntry
from quantexp.runner.finished import read_report
from quantexp.runner.identity import without_machine
from quantexp.system.errors import TrackingError
from quantexp.tracking.artifacts import read_artifact
from quantexp.tracking.names import COMMAND, CONFIGURATION, ERROR, IDENTITY, INTERRUPTED, OBJECTIVES, SWEEP
from quantexp.tracking.store import RunFacts, Store, tracking_errors
from quantexp.tracking.sweeps import LEFT, children, host_of, parents

log = logging.getLogger(__name__)

VERSION_TAGS = {"quantexp": "quantexp.version", "torch": "torch", "torchao": "torchao"}
UNSUPPORTED = "unsupported"  # metric of the parent run
UNSUPPORTED_FILE = "unsupported.json"  # of the parent run: the combinations that are not supported


@dataclass(frozen=True)
class Before:
    """What a sweep finished before it is resumed.

    `done` has the name of each finished run by its identity, `failed` the configurations whose last run failed,
    `unreadable` the finished runs that are run again, as their reports cannot be read. `elsewhere` has the host and the
    name of each finished run by what its result depends on beside the machine: a launcher that runs jobs on several
    hosts may give a job to another one than before.
    """

    done: dict[str, str]
    failed: frozenset[str]
    unreadable: tuple[UnreadableEntry, ...] = ()
    elsewhere: dict[str, list[str]] = field(default_factory=dict)


def read_before(store: Store, parent: str) -> Before:
    """Read what a sweep finished before it is resumed. Raises TrackingError."""
    outcomes = list(_outcomes(store, children(store, parent)))
    finished = [outcome.run for outcome in outcomes if outcome.report]
    return Before(
        {run.tags[IDENTITY]: run.name for run in finished},
        frozenset(outcome.run.tags[CONFIGURATION] for outcome in outcomes if outcome.failed),
        tuple(_unreadable(outcomes)),
        {key: [host_of(run), run.name] for run in finished if (key := _without_machine(run))},
    )


def _without_machine(run: RunFacts) -> str | None:
    """Return what the result of a run depends on beside the machine, None if its tags do not say it."""
    try:
        versions = {name: run.tags[tag] for name, tag in VERSION_TAGS.items()}
        return without_machine(run.tags[CONFIGURATION], run.tags["data_fingerprint"], versions)
    except KeyError:  # of another version, or a study
        return None


def read_sweep(store: Store, name: str) -> SweepResult:
    """Read a sweep by its name, from all hosts, or by the id of its parent run.

    Raises:
        TrackingError: If the store cannot be read, or has no such sweep.
    """
    found = parents(store, name)
    outcomes = [outcome for parent in found for outcome in _outcomes(store, children(store, parent.run_id))]
    unreadable = list(_unreadable(outcomes))
    unsupported: list[UnsupportedEntry] = []
    for parent in found:
        try:
            unsupported += _unsupported(store, parent)
        except TrackingError as error:
            unreadable.append(UnreadableEntry(parent.run_id, f"{UNSUPPORTED_FILE} of {parent.name}", str(error)))
    return SweepResult(
        name=found[0].tags[SWEEP],
        command=found[0].tags.get(COMMAND, ""),
        entries=tuple(outcome.entry for outcome in outcomes if outcome.report or outcome.failed),
        left=sum(int(parent.metrics.get(LEFT, 0)) for parent in found),
        unsupported=_different(unsupported),
        unreadable=tuple(unreadable),
        objectives=tuple(name for name in found[0].tags.get(OBJECTIVES, "").split(",") if name),
    )


def log_unsupported(store: Store, parent: str, entries: Sequence[UnsupportedEntry]) -> None:
    """Record the combinations that are not supported beside those that were requested before. Raises TrackingError."""
    run = store.run(parent)
    before: Sequence[UnsupportedEntry] = ()
    try:
        before = _unsupported(store, run)
    except TrackingError as error:
        log.warning("the list of unsupported combinations cannot be read: %s", error)
    if known := _different([*before, *entries]):
        with tracking_errors(f"the sweep {run.name} cannot be recorded", store.uri):
            store.log_text(parent, UNSUPPORTED_FILE, json.dumps([asdict(entry) for entry in known], indent=1))
            store.client.log_metric(parent, UNSUPPORTED, len(known))


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


@dataclass(frozen=True)
class CombinationOutcome:
    """The outcome of a combination: the run that counts, with its report or the reason why it cannot be read."""

    run: RunFacts
    report: Report | None = None
    unreadable: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the run failed, or its process was killed; one that the user interrupted did not fail."""
        if self.report or self.unreadable:
            return False
        killed = self.run.status == "KILLED" and self.run.tags.get(ERROR, INTERRUPTED) != INTERRUPTED
        return killed or self.run.status == "FAILED"

    @property
    def entry(self) -> Entry:
        """The combination as a sweep has it."""
        error = None if self.report else self.run.tags.get(ERROR, "no error was recorded")
        configuration = self.run.tags.get(CONFIGURATION, "")
        return Entry(self.run.run_id, self.run.name, self.run.params, self.report, error, configuration)


def _outcomes(store: Store, runs: Iterable[RunFacts]) -> Iterator[CombinationOutcome]:
    """Yield the outcome of each combination, in the order in which they were first tried."""
    of_configuration: dict[str, list[RunFacts]] = {}
    for run in runs:
        of_configuration.setdefault(run.tags.get(CONFIGURATION, run.run_id), []).append(run)
    for group in of_configuration.values():
        yield _outcome(store, group)


def _outcome(store: Store, runs: Sequence[RunFacts]) -> CombinationOutcome:
    """Return the last run whose report can be read; without one the last that finished, that failed, or of all."""
    unreadable = None
    for run in (run for run in reversed(runs) if run.finished):
        try:
            return CombinationOutcome(run, read_report(store, run))
        except TrackingError as error:
            unreadable = unreadable or CombinationOutcome(run, unreadable=str(error))
    failed = [run for run in runs if CombinationOutcome(run).failed]
    return unreadable or CombinationOutcome((failed or runs)[-1])


def _unreadable(outcomes: Iterable[CombinationOutcome]) -> Iterator[UnreadableEntry]:
    for outcome in outcomes:
        if outcome.unreadable:
            yield UnreadableEntry(outcome.run.run_id, outcome.run.name, outcome.unreadable)

"""The finished runs of stores, read for a comparison of machines. Nothing in a store is changed or executed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantexp.config import GROUPS
from quantexp.results.identity import Identity
from quantexp.results.machines import MachineFacts, RecordedRun, RecordedRuns
from quantexp.results.sweep import UnreadableEntry
from quantexp.runner.artifacts import ENVIRONMENT_FILE, IDENTITY_FILE
from quantexp.runner.finished import read_report
from quantexp.system.errors import ConfigError, TrackingError
from quantexp.system.passwords import without_password
from quantexp.tracking.artifacts import read_artifact
from quantexp.tracking.names import as_text
from quantexp.tracking.store import RunFacts, Store, read_store
from quantexp.tracking.sweeps import children, parents

OF_THE_MACHINE = ("benchmark", "train.threads")  # how a machine measured and trained, not what


def read_stores(uris: Sequence[str], experiment: str, sweep: str | None = None) -> RecordedRuns:
    """Read the finished runs of stores.

    Args:
        uris: The tracking URIs of the stores.
        experiment: Their MLflow experiment.
        sweep: The name of a sweep; None reads all runs.

    Raises:
        ConfigError: If a store is named twice.
        TrackingError: If a store cannot be read, or has no finished run that can be read.
    """
    runs: dict[str, RecordedRun] = {}
    unreadable: list[UnreadableEntry] = []
    failed: dict[str, int] = {}
    stores: list[str] = []
    repeated = 0
    for uri in uris:
        shown = str(without_password(uri)).removeprefix("sqlite:///")
        if shown in stores:
            raise ConfigError(f"each store must be named once, got {shown} twice; leave one of them out")
        stores.append(shown)
        with read_store(uri, experiment) as store:
            recorded = _of_sweep(store, sweep) if sweep else _every(store)
            failed[shown] = sum(run.status == "FAILED" for run in recorded)
            found = [_read(store, shown, run) for run in recorded if run.finished]
        read = [run for run in found if isinstance(run, RecordedRun)]
        lost = [run for run in found if isinstance(run, UnreadableEntry)]
        if not read:
            raise TrackingError(_nothing(shown, experiment, lost))
        repeated += sum(run.run_id in runs for run in read)
        runs |= {run.run_id: run for run in read if run.run_id not in runs}
        unreadable += lost
    return RecordedRuns(tuple(stores), tuple(runs.values()), tuple(unreadable), failed, repeated)


def _every(store: Store) -> list[RunFacts]:
    return sorted(store.search(""), key=lambda run: run.started_ms)


def _of_sweep(store: Store, name: str) -> list[RunFacts]:
    return [run for parent in parents(store, name) for run in children(store, parent.run_id)]


def _nothing(shown: str, experiment: str, lost: Sequence[UnreadableEntry]) -> str:
    if lost:
        return f"no run in {shown} can be read: {lost[0].reason}"
    return (
        f"{shown} has no finished run of quantexp in the experiment {experiment!r}; "
        "name another store, or another experiment with --experiment NAME"
    )


def _read(store: Store, shown: str, run: RunFacts) -> RecordedRun | UnreadableEntry:
    try:
        report = read_report(store, run)
        identity = _identity(store, run)
        facts = _facts(store, run)
    except TrackingError as error:
        return UnreadableEntry(run.run_id, run.name, str(error))
    settings, protocol = _settings(run.params, identity), run.params.get("benchmark", report.benchmark)
    return RecordedRun(shown, run.run_id, run.name, settings, protocol, report, identity, facts)


def _identity(store: Store, run: RunFacts) -> Identity:
    content = read_artifact(store, run, IDENTITY_FILE)
    try:
        return Identity.from_json(content)
    except ValueError as error:
        raise _other_format(IDENTITY_FILE, run, error) from error


def _facts(store: Store, run: RunFacts) -> MachineFacts:
    content = read_artifact(store, run, ENVIRONMENT_FILE)
    try:
        return MachineFacts.from_json(content)
    except ValueError as error:
        raise _other_format(ENVIRONMENT_FILE, run, error) from error


def _other_format(file: str, run: RunFacts, error: ValueError) -> TrackingError:
    reason = " ".join(str(error).split())[:200]
    version = run.tags.get("quantexp.version", "an unknown version")
    return TrackingError(f"{file} of run {run.run_id}, recorded by quantexp {version}, cannot be read ({reason})")


def _settings(params: Mapping[str, str], identity: Identity) -> dict[str, str]:
    """Return the recorded settings, with the digests of the identity in place of the user's files and code."""
    settings = {**params, **dict(_flat(identity.configuration))}
    return {name: value for name, value in settings.items() if name not in OF_THE_MACHINE}


def _flat(configuration: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for group in GROUPS:
        of_group = configuration.get(group)
        for name, value in of_group.items() if isinstance(of_group, dict) else ():
            if name != "name":
                yield f"{group}.{name}", _short(as_text(value))


def _short(text: str) -> str:
    """Return the first digits of a SHA-256; other text is returned unchanged."""
    return text[:8] if re.fullmatch(r"[0-9a-f]{64}", text) else text

"""A finished run read from the store, and contradictions between its records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantexp.config import Compatibility
from quantexp.results import Report, parse_report
from quantexp.results.compatibility import COMPATIBILITY_FILE, CompatibilityReport, parse_compatibility
from quantexp.results.identity import Identity
from quantexp.results.metrics import metrics
from quantexp.runner.artifacts import CONFIG_FILE, IDENTITY_FILE, REPORT_FILE
from quantexp.system.errors import TrackingError
from quantexp.tracking.artifacts import read_artifact
from quantexp.tracking.names import IDENTITY, KIND, WITHOUT_MODEL
from quantexp.tracking.store import RunFacts, Store

ROUNDED = 1e-6  # metrics are recorded with six decimals


@dataclass(frozen=True)
class FinishedRun:
    """The records of a finished run; `without_model` tells that it was recorded without its network."""

    run_id: str
    name: str
    config_yaml: str
    parameters: dict[str, str]
    identity: Identity
    report: Report
    disagreements: tuple[str, ...]
    without_model: bool = False


def read_report(store: Store, run: RunFacts) -> Report:
    """Return the report that a run stored. Raises TrackingError."""
    content = read_artifact(store, run, REPORT_FILE)
    try:
        return parse_report(content)
    except ValueError as error:  # of another version, or damaged
        raise TrackingError(f"{REPORT_FILE} of run {run.run_id} cannot be read ({_one_line(error)})") from error


def find_compatibility(store: Store, name: str) -> CompatibilityReport | None:
    """Return the report of the latest study of compatibility with this name or run id; None if there is none.

    Raises:
        TrackingError: If the study has no report, or one that cannot be read.
    """
    for run in store.search(f"tags.`{KIND}` = 'study' and params.study = '{Compatibility.name}'"):
        if name not in (run.name, run.run_id):
            continue
        try:
            return parse_compatibility(read_artifact(store, run, COMPATIBILITY_FILE))
        except ValueError as error:
            reason = _one_line(error)
            raise TrackingError(f"{COMPATIBILITY_FILE} of run {run.run_id} cannot be read ({reason})") from error
    return None


def read_finished_run(store: Store, run_id: str) -> FinishedRun:
    """Read a run that quantexp recorded. Raises TrackingError if there is none, or it is not finished."""
    run = store.run(run_id)
    if not run.finished:
        raise TrackingError(
            f"only a finished run of quantexp can be reproduced; {run_id} ({run.name}) is {run.status}"
            f"{'' if IDENTITY in run.tags else f' and has no tag {IDENTITY}'}"
        )
    report = read_report(store, run)
    identity_json, config_yaml = (read_artifact(store, run, file) for file in (IDENTITY_FILE, CONFIG_FILE))
    try:
        identity, config = Identity.from_json(identity_json), config_yaml.decode()
    except ValueError as error:
        raise TrackingError(f"the files of run {run_id} are damaged ({_one_line(error)})") from error
    disagreements = tuple(_disagreements(identity, run.tags[IDENTITY], report, run.metrics))
    without = WITHOUT_MODEL in run.tags
    return FinishedRun(run_id, run.name, config, run.params, identity, report, disagreements, without)


def _disagreements(identity: Identity, tag: str, report: Report, recorded: dict[str, float]) -> Iterator[str]:
    if identity.digest != tag:
        yield f"{IDENTITY_FILE} does not match the tag {IDENTITY}"
    if identity.data_fingerprint != report.data.fingerprint:
        yield f"{IDENTITY_FILE} and {REPORT_FILE} name different data"
    for name, value in metrics(report).items():
        if name not in recorded:
            yield f"the metric {name} is missing; {REPORT_FILE} says {value:g}"
        elif abs(recorded[name] - value) > ROUNDED:
            yield f"the metric {name} says {recorded[name]:g}, {REPORT_FILE} says {value:g}"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]

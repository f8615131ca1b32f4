"""One run read back from the store, with whatever in it does not agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantexp.results import Report, parse_report
from quantexp.results.metrics import metrics
from quantexp.runner.identity import Identity
from quantexp.system.errors import TrackingError
from quantexp.tracking.artifacts import read_artifact
from quantexp.tracking.names import CONFIG_FILE, IDENTITY, IDENTITY_FILE, REPORT_FILE
from quantexp.tracking.store import Store

ROUNDED = 1e-6  # metrics are recorded with six decimals


@dataclass(frozen=True)
class Record:
    """What a store holds of a finished run."""

    run_id: str
    name: str
    config_yaml: str
    parameters: dict[str, str]
    identity: Identity
    report: Report
    disagreements: tuple[str, ...]


def read_record(store: Store, run_id: str) -> Record:
    """Read a run that quantexp recorded. Raises TrackingError if there is none, or it did not finish."""
    try:
        run = store.client.get_run(run_id)
    except Exception as error:  # MLflow raises whatever its stores raise
        reason = " ".join(str(error).split())[:200]
        raise TrackingError(f"{store.uri} holds no run {run_id!r} ({reason})") from error
    if run.info.status != "FINISHED" or IDENTITY not in run.data.tags:
        raise TrackingError(
            f"a run can be made again if quantexp finished it; {run_id} ({run.info.run_name}) is {run.info.status}"
            f"{'' if IDENTITY in run.data.tags else f' and has no tag {IDENTITY}'}"
        )
    try:
        named = {file: read_artifact(store.client, run_id, file) for file in (CONFIG_FILE, IDENTITY_FILE, REPORT_FILE)}
        identity, report = Identity.from_json(named[IDENTITY_FILE]), parse_report(named[REPORT_FILE])
        config_yaml = named[CONFIG_FILE].decode()
    except TrackingError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise TrackingError(f"the records of run {run_id} are damaged ({type(error).__name__}: {reason})") from error
    disagreements = tuple(_disagreements(identity, run.data.tags[IDENTITY], report, run.data.metrics))
    parameters = dict(run.data.params)
    return Record(run_id, run.info.run_name, config_yaml, parameters, identity, report, disagreements)


def _disagreements(identity: Identity, tag: str, report: Report, recorded: dict[str, float]) -> Iterator[str]:
    if identity.digest != tag:
        yield f"{IDENTITY_FILE} is not what the tag {IDENTITY} was made from"
    if identity.data_fingerprint != report.data.fingerprint:
        yield f"{IDENTITY_FILE} and {REPORT_FILE} name different data"
    for name, value in metrics(report).items():
        if name not in recorded:
            yield f"the metric {name} is gone; {REPORT_FILE} says {value:g}"
        elif abs(recorded[name] - value) > ROUNDED:
            yield f"the metric {name} says {recorded[name]:g}, {REPORT_FILE} says {value:g}"

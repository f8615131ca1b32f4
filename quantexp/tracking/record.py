"""One run in MLflow: started before the work, ended as FINISHED, FAILED or KILLED."""

from __future__ import annotations

import csv
import functools
import getpass
import json
import logging
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quantexp import __version__
from quantexp.mission import Outcome
from quantexp.reports.details import tables
from quantexp.reports.findings import Findings
from quantexp.reports.plots import pictures
from quantexp.reports.table import Table, comparison_table
from quantexp.results import Report, Training
from quantexp.results.metrics import metrics
from quantexp.runner.identity import Identity
from quantexp.storage import stored as storage
from quantexp.system import environment
from quantexp.system.errors import TrackingError
from quantexp.tracking.names import CONFIG_FILE, IDENTITY, IDENTITY_FILE, NOTE, PROCESS, REPORT_FILE, as_text
from quantexp.tracking.processes import mark
from quantexp.tracking.store import Store
from quantexp.tracking.views import directions

log = logging.getLogger(__name__)


class Recorder:
    """Writes one run. The batches are few: a call costs as much with one metric as with fifty."""

    def __init__(self, store: Store, run_id: str, name: str) -> None:
        self.store = store
        self.run_id = run_id
        self.name = name

    def where(self) -> list[str]:
        """Say where the run is recorded and how to look at it."""
        return directions(self.store, self.name, self.run_id)

    def record(self, outcome: Outcome, identity: Identity, *, drawn: bool = True) -> None:
        """Record everything that the run found out, with its pictures if they are to be drawn. Raises TrackingError."""
        report = outcome.report
        with self._refusals():
            self._metrics(report)
            self._tags(report, identity)
            self._dataset(report)
            self._artifacts(outcome, identity, drawn)

    def record_findings(self, found: Findings, step: int = 0) -> None:
        """Record what a study found out up to a step, in place of what it had before. Raises TrackingError."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self._refusals(), tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
            batch = [Metric(name, float(f"{value:.7g}"), now, step) for name, value in found.metrics.items()]
            self.store.client.log_batch(self.run_id, metrics=batch)
            self.store.client.set_tag(self.run_id, NOTE, found.table.markdown())
            _write_common(Path(scratch), found.table, found.lines, found.pictures)
            self.store.client.log_artifacts(self.run_id, scratch)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn whatever a store raises into TrackingError."""
        try:
            yield
        except Exception as error:  # MLflow raises whatever its stores raise
            raise TrackingError(f"the run {self.name} cannot be recorded ({type(error).__name__}: {error})") from error

    def _metrics(self, report: Report) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, round(value, 6), now, 0) for name, value in metrics(report).items()]
        for name, training in _curves(report):
            pairs = zip(training.steps, training.losses, strict=True)
            batch += [Metric(f"train/{name}", round(loss, 6), now, step) for step, loss in pairs]
        for start in range(0, len(batch), 1000):  # MLflow's limit for one call
            self.store.client.log_batch(self.run_id, metrics=batch[start : start + 1000])

    def _tags(self, report: Report, identity: Identity) -> None:
        from mlflow.entities import RunTag

        tags = {
            NOTE: comparison_table(report).markdown(),
            "data_fingerprint": report.data.fingerprint,
            IDENTITY: identity.digest,
        }
        if report.calibration is not None:
            tags["calibration"] = report.calibration
        if report.unstable:
            tags["unstable"] = "; ".join(report.unstable)
        if report.comparison:
            tags |= {f"verdict_b{one.batch_size}": one.verdict for one in report.comparison.speedups}
            tags["verdict_accuracy"] = report.comparison.accuracy_verdict
        self.store.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _dataset(self, report: Report) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = report.data
        rows = {"train": data.train, "calibration": data.calibration, "test": data.test}
        rows |= {"validation": data.validation} if data.validation else {}
        dataset = Dataset(
            name=report.task if data.source == "full" else f"{report.task} ({data.source})",
            digest=data.fingerprint[:16],
            source_type="local",
            source=json.dumps({"origin": data.origin}),
            profile=json.dumps(rows),
        )
        self.store.client.log_inputs(
            self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", data.evaluation)])]
        )

    def _artifacts(self, outcome: Outcome, identity: Identity, drawn: bool) -> None:
        with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
            folder = Path(scratch)
            (folder / IDENTITY_FILE).write_text(identity.to_json(), encoding="utf-8")
            (folder / REPORT_FILE).write_text(outcome.report.to_json(), encoding="utf-8")
            drawings = pictures(outcome.report) if drawn else {}
            _write_common(folder, comparison_table(outcome.report), tables(outcome.report), drawings)
            storage.save(folder / "model", outcome.model, outcome.recipe)
            self.store.client.log_artifacts(self.run_id, str(folder))


@contextmanager
def recording(
    store: Store,
    name: str,
    parameters: Mapping[str, Any],
    config_yaml: str,
    tags: Mapping[str, str] = MappingProxyType({}),
    again: str | None = None,
) -> Iterator[Recorder]:
    """Open a run and close it by what happens inside: FINISHED, FAILED with the error, or KILLED.

    `again` is the id of a run that has ended and shall go on, in place of a new one.

    Raises:
        TrackingError: If the run cannot be opened.
    """
    try:
        recorder = _start(store, name, parameters, config_yaml, tags, again)
    except Exception as error:  # MLflow raises whatever its stores raise
        raise TrackingError(f"no run can be started in {store.uri} ({type(error).__name__}: {error})") from error
    try:
        yield recorder
    except (KeyboardInterrupt, SystemExit):
        _end(recorder, "KILLED", "interrupted")
        raise
    except BaseException as error:
        _end(recorder, "FAILED", f"{type(error).__name__}: {error}")
        raise
    try:
        store.client.set_terminated(recorder.run_id, "FINISHED")
    except Exception as error:  # all is recorded; only its end is not
        log.warning("the run %s is recorded, but could not be marked as finished (%s)", name, error)


def _start(
    store: Store,
    name: str,
    parameters: Mapping[str, Any],
    config_yaml: str,
    tags: Mapping[str, str],
    again: str | None,
) -> Recorder:
    from mlflow.entities import Param, RunTag

    machine = environment.describe()
    told = {
        **tags,
        PROCESS: mark(),
        "quantexp.version": __version__,
        "host": machine.host,
        "cpu": machine.cpu,
        "torch": machine.packages["torch"],
        "torchao": machine.packages["torchao"],
        "mlflow.source.name": "quantexp",
        "mlflow.source.type": "LOCAL",
    }
    if commit := git_commit():
        told["mlflow.source.git.commit"] = commit
    if again is not None:
        store.client.update_run(again, status="RUNNING")
        store.client.log_batch(again, tags=[RunTag(tag, value) for tag, value in told.items()])
        if "error" in store.client.get_run(again).data.tags:
            store.client.delete_tag(again, "error")
        return Recorder(store, again, name)
    run = store.client.create_run(store.experiment_id, run_name=name, tags=told)
    params = [Param(key, as_text(value)) for key, value in parameters.items()]
    store.client.log_batch(run.info.run_id, params=params, tags=[RunTag("mlflow.user", _user())])
    store.client.log_text(run.info.run_id, config_yaml, CONFIG_FILE)
    return Recorder(store, run.info.run_id, name)


def _end(recorder: Recorder, status: str, error: str) -> None:
    """Close a run that did not finish. If even that fails, the first error is the one to tell."""
    with suppress(Exception):
        recorder.store.client.set_tag(recorder.run_id, "error", error[:5000])
        recorder.store.client.set_terminated(recorder.run_id, status)


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the working directory, None outside a repository."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _curves(report: Report) -> Iterator[tuple[str, Training]]:
    """Yield the curve of the model that the run is about, and beside it the float model's if both were trained."""
    if main := report.quantized_training or report.float_training:
        yield "loss", main
    if report.quantized_training and report.float_training:
        yield "float_loss", report.float_training


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _write_common(
    folder: Path, table: Table, lines: Mapping[str, Iterable[Sequence[object]]], drawings: Mapping[str, bytes]
) -> None:
    """Write what every run leaves: its table, the environment, longer tables as CSV, pictures."""
    (folder / "table.md").write_text(table.markdown(), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps(environment.record(), indent=1), encoding="utf-8")
    for name, rows in lines.items():
        _write_csv(folder / f"{name}.csv", rows)
    for name, picture in drawings.items():
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / "pictures" / name).write_bytes(picture)


def _write_csv(path: Path, lines: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)

"""One run in MLflow: opened before the work starts, closed as FINISHED, FAILED or KILLED."""

from __future__ import annotations

import functools
import getpass
import json
import logging
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from quantexp.system import environment
from quantexp.system.version import __version__
from quantexp.tracking.names import ERROR, INTERRUPTED, PROCESS, as_text
from quantexp.tracking.processes import mark
from quantexp.tracking.store import Store, tracking_errors
from quantexp.tracking.views import directions

log = logging.getLogger(__name__)

METRICS_IN_A_CALL = 1000  # MLflow's limit
NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Point(NamedTuple):
    """A value of a metric, at a step where it has several."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True)
class Dataset:
    """The data of a run: `rows` has the number of examples of each split, `context` the split of the evaluation."""

    name: str
    digest: str
    origin: str
    rows: Mapping[str, int]
    context: str


class TrackedRun:
    """A run that is open in the store."""

    def __init__(self, store: Store, run_id: str, name: str) -> None:
        self.store = store
        self.run_id = run_id
        self.name = name

    def where(self) -> list[str]:
        """Return lines that say where the run is recorded and how to open it."""
        return directions(self.store, self.name, self.run_id)

    def log(
        self,
        points: Iterable[Point] = (),
        tags: Mapping[str, str] = NO_TAGS,
        dataset: Dataset | None = None,
        folder: Path | None = None,
    ) -> None:
        """Record figures, tags, the data, and all files of a folder. Raises TrackingError.

        There are few calls, as each costs the same with one metric as with fifty.
        """
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        batch = [Metric(point.name, point.value, now, point.step) for point in points]
        with tracking_errors(f"the run {self.name} cannot be recorded"):
            for start in range(0, len(batch), METRICS_IN_A_CALL):
                self.store.client.log_batch(self.run_id, metrics=batch[start : start + METRICS_IN_A_CALL])
            if tags:
                self.store.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
            if dataset is not None:
                self._log_dataset(dataset)
            if folder is not None:
                self.store.log_files(self.run_id, folder)

    def log_text(self, file: str, text: str) -> None:
        """Record a file of text. Raises TrackingError."""
        with tracking_errors(f"the run {self.name} cannot be recorded"):
            self.store.log_text(self.run_id, file, text)

    def _log_dataset(self, data: Dataset) -> None:
        from mlflow.entities import Dataset as Logged
        from mlflow.entities import DatasetInput, InputTag

        source, profile = json.dumps({"origin": data.origin}), json.dumps(data.rows)
        logged = Logged(name=data.name, digest=data.digest, source_type="local", source=source, profile=profile)
        context = InputTag("mlflow.data.context", data.context)
        self.store.client.log_inputs(self.run_id, [DatasetInput(logged, [context])])


@contextmanager
def track(
    store: Store,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str] = NO_TAGS,
    again: str | None = None,
) -> Iterator[TrackedRun]:
    """Open a run, and close it as FINISHED, FAILED with the error, or KILLED.

    `again` is the id of a run that is resumed, in place of a new one.

    Raises:
        TrackingError: If the run cannot be opened.
    """
    with tracking_errors(f"no run can be started in {store.uri}"):
        run = _start(store, name, parameters, tags, again)
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        _end(run, "KILLED", INTERRUPTED)
        raise
    except BaseException as error:
        _end(run, "FAILED", f"{type(error).__name__}: {error}")
        raise
    try:
        store.client.set_terminated(run.run_id, "FINISHED")
    except Exception as error:  # everything but the status is recorded
        log.warning("the run %s is recorded, but could not be marked as finished (%s)", name, error)


def _start(
    store: Store, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str], again: str | None
) -> TrackedRun:
    from mlflow.entities import Param, RunTag

    tags = {**tags, **_origin()}
    if again is not None:
        store.client.update_run(again, status="RUNNING")
        store.client.log_batch(again, tags=[RunTag(tag, value) for tag, value in tags.items()])
        if ERROR in store.client.get_run(again).data.tags:
            store.client.delete_tag(again, ERROR)
        return TrackedRun(store, again, name)
    run = store.client.create_run(store.experiment_id, run_name=name, tags=tags)
    params = [Param(key, as_text(value)) for key, value in parameters.items()]
    store.client.log_batch(run.info.run_id, params=params, tags=[RunTag("mlflow.user", _user())])
    return TrackedRun(store, run.info.run_id, name)


def _origin() -> dict[str, str]:
    """Return tags with the machine and the versions of a run."""
    machine = environment.describe()
    commit = git_commit()
    return {
        PROCESS: mark(),
        "quantexp.version": __version__,
        "host": machine.host,
        "cpu": machine.cpu,
        "torch": machine.packages["torch"],
        "torchao": machine.packages["torchao"],
        "mlflow.source.name": "quantexp",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }


def _end(run: TrackedRun, status: str, error: str) -> None:
    """Close a run that did not finish. If that fails too, the first error counts."""
    with suppress(Exception):
        run.store.client.set_tag(run.run_id, ERROR, error[:5000])
        run.store.client.set_terminated(run.run_id, status)


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the working directory, None outside a repository."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"

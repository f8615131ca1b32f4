"""One run in MLflow: opened before the work starts, closed as FINISHED, FAILED or KILLED."""

from __future__ import annotations

import functools
import getpass
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quantexp.config import Server, Tracking
from quantexp.system import environment
from quantexp.system.version import __version__
from quantexp.tracking.address import bare
from quantexp.tracking.delivery import begin
from quantexp.tracking.names import ERROR, INTERRUPTED, PROCESS, RESULT, as_text
from quantexp.tracking.open_run import NO_TAGS, Point, TrackedRun
from quantexp.tracking.outbox import Dataset, Record
from quantexp.tracking.processes import mark
from quantexp.tracking.store import Store, tracking_errors

__all__ = ["Dataset", "Point", "TrackedRun", "track"]


@contextmanager
def track(
    store: Store | None,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str] = NO_TAGS,
    again: str | None = None,
    tracking: Tracking | None = None,
) -> Iterator[TrackedRun]:
    """Open a run, and close it as FINISHED, FAILED with the error, or KILLED.

    Args:
        store: Where it is recorded; None if the store does not answer, and the run is kept on disk.
        name: Its name.
        parameters: Its parameters.
        tags: Its tags.
        again: The id of a run that is resumed, in place of a new one.
        tracking: The setting of the store; None: that of `store`, with results kept in a temporary folder.

    Raises:
        TrackingError: If the run cannot be opened.
    """
    tracking = tracking or _setting(store)
    run = _start(store, name, parameters, tags, again, tracking)
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        _end(run, "KILLED", INTERRUPTED)
        raise
    except BaseException as error:
        _end(run, "FAILED", f"{type(error).__name__}: {error}")
        raise
    run.end("FINISHED")


def _setting(store: Store | None) -> Tracking:
    assert store is not None, "a run without a store needs its setting"
    scratch = str(Path(tempfile.gettempdir(), "quantexp"))
    return Server(experiment=store.experiment or Server.experiment, uri=store.uri, keep_in=scratch)


def _start(
    store: Store | None,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str],
    again: str | None,
    tracking: Tracking,
) -> TrackedRun:
    params = {key: as_text(value) for key, value in parameters.items()}
    record = Record(bare(tracking.uri), tracking.experiment, name, mark(), int(time.time() * 1000), params=params)
    record.tags = {**tags, **_origin(record.process), "mlflow.user": _user()}
    run = TrackedRun(store, record, tracking)
    if store is None:
        run.send()
        return run
    with tracking_errors(f"no run can be started in {store.uri}", store.uri):
        if again is None:
            begin(store, record)
        else:
            _resume(store, record, again)
    run.delivered()
    return run


def _resume(store: Store, record: Record, again: str) -> None:
    from mlflow.entities import RunTag

    before = store.client.get_run(again).data.tags
    record.run_id, record.id = again, before.get(RESULT, record.id)
    record.params = {}  # as it has them: MLflow keeps the first values
    tags = {**record.tags, RESULT: record.id}
    store.client.update_run(again, status="RUNNING")
    store.client.log_batch(again, tags=[RunTag(tag, value) for tag, value in tags.items()])
    if ERROR in before:
        store.client.delete_tag(again, ERROR)


def _origin(process: str) -> dict[str, str]:
    """Return tags with the machine and the versions of a run."""
    machine = environment.describe()
    commit = git_commit()
    return {
        PROCESS: process,
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
        run.end(status, error)


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

"""The tracking store: reached, checked for life, and made once before any run.

A fresh SQLite store is made under a lock: processes that migrate the same empty file at once leave it
half-migrated and unusable.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantexp.config import Tracking
from quantexp.system.cache import locked
from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password
from quantexp.tracking.names import IDENTITY

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

HEALTH_SECONDS = 2.0
ELSEWHERE = "start in another directory, or use tracking=server tracking.uri=sqlite:////path/to/mlflow.db"
ARTIFACTS = "mlartifacts"
LOCAL_URI = "sqlite:///mlflow.db"  # of the working directory


@dataclass(frozen=True)
class RunFacts:
    """What a store says of a run. `metrics` has last values, `artifact_uri` the place of its files as recorded."""

    run_id: str
    name: str
    status: str
    started_ms: int
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    artifact_uri: str

    @classmethod
    def of(cls, run: Run) -> RunFacts:
        """Return the facts of a run of MLflow's."""
        info, data = run.info, run.data
        values = dict(data.tags), dict(data.params), dict(data.metrics)
        name = info.run_name or info.run_id
        return cls(info.run_id, name, info.status, info.start_time or 0, *values, info.artifact_uri or "")

    @property
    def finished(self) -> bool:
        """Whether quantexp finished it, with a result."""
        return self.status == "FINISHED" and IDENTITY in self.tags


class Store:
    """An MLflow store and the experiment in it that runs are filed under."""

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str) -> None:
        self.client = client
        self.uri = uri
        self.experiment_id = experiment_id

    def search(self, condition: str) -> Iterator[RunFacts]:
        """Yield the runs of the experiment that match an MLflow filter, the latest first. Raises TrackingError."""
        token = None
        while True:
            with tracking_errors(f"{without_password(self.uri)} cannot be searched"):
                found = self.client.search_runs([self.experiment_id], condition, max_results=1000, page_token=token)
            yield from map(RunFacts.of, found)
            token = found.token
            if not token:
                return

    def run(self, run_id: str) -> RunFacts:
        """Return the facts of a run. Raises TrackingError if there is none."""
        with tracking_errors(f"{without_password(self.uri)} holds no run {run_id!r}"):
            return RunFacts.of(self.client.get_run(run_id))


@contextmanager
def tracking_errors(what: str) -> Iterator[None]:
    """Turn whatever a store raises into a TrackingError that says what cannot be done."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # MLflow raises whatever its stores raise: SQLAlchemy, requests, alembic ...
        reason = without_password(" ".join(str(error).split()))[:300]
        raise TrackingError(f"{what} ({type(error).__name__}: {reason})") from error


def open_store(tracking: Tracking) -> Store:
    """Open the store to record in it; make it and the experiment if need be.

    Raises:
        TrackingError: If it cannot be reached or written.
    """
    uri = resolve_uri(str(tracking.uri))
    _check_alive(uri)
    try:
        if path := sqlite_path(uri):
            lock = path.with_name(f".{path.name}.lock")
            with locked(lock, "another process makes the tracking store", partial(_takes_no_file, path)):
                return _open(uri, tracking.experiment, path.parent / ARTIFACTS)
        return _open(uri, tracking.experiment, None)
    except TrackingError:
        raise
    except Exception as error:  # MLflow raises whatever its stores raise: SQLAlchemy, requests, alembic ...
        reason = without_password(" ".join(str(error).split()))[:300]
        raise TrackingError(
            f"the tracking store {without_password(uri)} cannot be used ({type(error).__name__}: {reason}); "
            "repair it, or record elsewhere with tracking=server tracking.uri=URI"
        ) from error


@contextmanager
def read_store(uri: str | None, experiment: str | None = None) -> Iterator[Store]:
    """Open a store to read from it; nothing is made or changed.

    Args:
        uri: Where it is; None is the SQLite store of the working directory.
        experiment: The experiment whose runs are searched; None if no search is made.

    Raises:
        TrackingError: If the store cannot be read, or there is no such store or experiment.
    """
    where = resolve_uri(uri or LOCAL_URI)
    path = sqlite_path(where)
    if path is not None and not path.is_file():
        raise TrackingError(
            f"there is no store {path}; start in the folder of the store, or give its address (tracking_uri=)"
        )
    _check_alive(where)
    with tracking_errors(f"{without_password(where)} cannot be read"):
        client = quiet_client(where)
        found = client.get_experiment_by_name(experiment) if experiment is not None else None
    if experiment is not None and found is None:
        raise TrackingError(f"{without_password(where)} has no experiment {experiment!r}; name another one")
    yield Store(client, where, str(found.experiment_id) if found is not None else "")


def resolve_uri(uri: str) -> str:
    """Return the URI with a relative SQLite path made absolute."""
    path = sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the file that a SQLite URI names, None for other URIs."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///")).absolute()


def quiet_client(uri: str) -> MlflowClient:
    """Return a client of the store: no telemetry, no INFO lines, no minutes of retries."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # logs, with traceback, what it raises too
    return mlflow.MlflowClient(uri, registry_uri=uri)


def _open(uri: str, name: str, artifacts: Path | None) -> Store:
    from mlflow.exceptions import MlflowException

    client = quiet_client(uri)
    location = artifacts.as_uri() if artifacts else None
    experiment: Any = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return Store(client, uri, client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was faster
    if not experiment.experiment_id:
        raise TrackingError(
            f"{without_password(uri)} does not answer as an MLflow server does; "
            "correct tracking.uri, or use tracking=local"
        )
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the experiment {name!r} in {uri} is deleted; restore it with "
            f"`mlflow experiments restore -x {experiment.experiment_id}` or choose tracking.experiment=OTHER"
        )
    return Store(client, uri, str(experiment.experiment_id))


def _check_alive(uri: str) -> None:
    """Ask a server whether it lives, before anything is trained for it; look at a SQLite file's folder."""
    if uri.startswith(("http://", "https://")):
        shown = without_password(uri)
        bare = re.sub(r"(://)[^/@]*@", r"\1", uri)  # urllib takes user:password@host for the name of a host
        try:
            with urllib.request.urlopen(f"{bare.rstrip('/')}/health", timeout=HEALTH_SECONDS):
                return
        except urllib.error.HTTPError as error:
            if error.code not in (401, 403, 404):  # a guarded server may not show its health
                raise TrackingError(
                    f"the tracking server {shown} must be well, it answers {error.code} {error.reason}; "
                    "look at its log, correct tracking.uri, or use tracking=local"
                ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise TrackingError(
                f"the tracking server must answer before a run starts, {shown} does not ({reason}); "
                "start it, correct tracking.uri, or use tracking=local"
            ) from error
    elif path := sqlite_path(uri):
        _check_sqlite(path)
    elif uri.startswith("sqlite:"):
        raise TrackingError(f"a SQLite store must name a file, got {uri}; use sqlite:////path/to/mlflow.db")
    elif "://" not in uri or uri.startswith("file:"):
        raise TrackingError(
            f"MLflow no longer records in plain folders, got {uri}; use sqlite:////path/to/mlflow.db or a server"
        )


def _takes_no_file(store: Path, folder: Path, error: OSError) -> TrackingError:
    return TrackingError(f"records go to {store}, but {folder} takes no file ({error.strerror or error}); {ELSEWHERE}")


def _check_sqlite(path: Path) -> None:
    if "?" in str(path):
        raise TrackingError(f"the path of a SQLite store must not hold a question mark, {path} does; {ELSEWHERE}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise TrackingError(f"records go to {path}, but its folder cannot be written; {ELSEWHERE}")
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        rule = f"{path} must be a SQLite store that can be written"
        raise TrackingError(f"{rule} ({error}); move it away, or {ELSEWHERE}") from error

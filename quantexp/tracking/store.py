"""The tracking store: opened to record in it, or read without changing it.

A new SQLite store is created under a lock, beside its place, and then renamed: processes that migrate the same empty
file at the same time, and one that is killed meanwhile, leave it half-migrated and unusable.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantexp.config import Tracking
from quantexp.system.cache import copy_atomically, locked
from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password
from quantexp.tracking.address import check_address, patience, resolve_uri, server_fault, sqlite_path
from quantexp.tracking.names import IDENTITY
from quantexp.tracking.schema import create_tables
from quantexp.tracking.sqlite import (
    ARTIFACTS,
    check_free,
    check_tables,
    check_writable,
    damaged,
    folder_not_writable,
    half_made,
    in_place,
    is_new,
    own_artifacts,
    own_run,
    remove_database,
    snapshot,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

# In errors of MLflow with a database that another process did not finish:
HALF_MADE = ("already exists", "duplicate column", "no such column", "no such table")
LOCAL_URI = "sqlite:///mlflow.db"  # of the working directory


@dataclass(frozen=True)
class RunFacts:
    """The facts of a run in a store. `metrics` has last values, `artifact_uri` the recorded place of its files."""

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
        """Return the facts of an MLflow run."""
        info, data = run.info, run.data
        values = dict(data.tags), dict(data.params), dict(data.metrics)
        name = info.run_name or info.run_id
        return cls(info.run_id, name, info.status, info.start_time or 0, *values, info.artifact_uri or "")

    @property
    def finished(self) -> bool:
        """Whether it finished with a result of quantexp."""
        return self.status == "FINISHED" and IDENTITY in self.tags


class Store:
    """An MLflow store and the experiment of its runs.

    `database` is the file of a SQLite store; if the store is only read, the client reads a copy of it.
    """

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str, experiment: str = "") -> None:
        self.client = client
        self.uri = uri
        self.experiment_id = experiment_id
        self.experiment = experiment  # its name
        self.database = sqlite_path(uri)

    def search(self, condition: str) -> Iterator[RunFacts]:
        """Yield the runs of the experiment that match an MLflow filter, the latest first. Raises TrackingError."""
        token = None
        while True:
            with tracking_errors(f"{without_password(self.uri)} cannot be searched", self.uri):
                found = self.client.search_runs([self.experiment_id], condition, max_results=1000, page_token=token)
            yield from map(RunFacts.of, found)
            token = found.token
            if not token:
                return

    def run(self, run_id: str) -> RunFacts:
        """Return the facts of a run. Raises TrackingError if there is none."""
        with tracking_errors(f"{without_password(self.uri)} has no run {run_id!r}", self.uri), patience():
            return RunFacts.of(self.client.get_run(run_id))

    def log_files(self, run_id: str, folder: Path, below: str = "") -> None:
        """Record all files of a folder, in a folder of the run. Raises any error of the store."""
        target = own_run(self.database, run_id) if self.database else None
        if target is None:
            self.client.log_artifacts(run_id, str(folder), below or None)
            return
        for source in folder.rglob("*"):  # MLflow's client would write to the place before the store was moved
            if source.is_file():
                place = target / below / source.relative_to(folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                copy_atomically(source, place)

    def log_text(self, run_id: str, name: str, text: str) -> None:
        """Record a file of text. Raises any error of the store."""
        with tempfile.TemporaryDirectory(prefix="quantexp-") as folder:
            (Path(folder) / name).write_text(text, encoding="utf-8")
            self.log_files(run_id, Path(folder))


@contextmanager
def tracking_errors(what: str, uri: str = "") -> Iterator[None]:
    """Turn any error of a store into a TrackingError that says what failed, or what is wrong with a server at `uri`."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # of any library of MLflow: SQLAlchemy, requests, alembic ...
        if fault := server_fault(uri, error):
            raise TrackingError(fault) from error
        reason = without_password(" ".join(str(error).split()))[:300]
        raise TrackingError(f"{what} ({type(error).__name__}: {reason})") from error


def check_place(tracking: Tracking) -> str:
    """Check what is known of a store before MLflow is imported, and return its URI.

    Raises:
        TrackingError: If the address cannot be one, or a SQLite file is not writable, locked or damaged.
    """
    uri = resolve_uri(str(tracking.uri))
    check_address(uri)
    if (path := sqlite_path(uri)) is not None:
        check_writable(path)
        if not is_new(path):
            check_free(path)
    return uri


def open_store(tracking: Tracking) -> Store:
    """Open the store to record in it; create it and the experiment if necessary.

    Raises:
        TrackingError: If it cannot be reached or is not writable.
    """
    uri = check_place(tracking)
    path = sqlite_path(uri)
    try:
        if path is None:
            return _open(uri, tracking.experiment, None)
        lock = path.with_name(f".{path.name}.lock")
        with locked(lock, "another process creates the tracking store", partial(folder_not_writable, path)):
            if is_new(path):
                _create(path)
            own_artifacts(path, tracking.experiment)
            return _open(uri, tracking.experiment, path.parent / ARTIFACTS)
    except TrackingError:
        raise
    except Exception as error:  # of any library of MLflow: SQLAlchemy, requests, alembic ...
        reason = without_password(" ".join(str(error).split()))[:300]
        if fault := server_fault(uri, error):
            raise TrackingError(fault) from error
        if path is not None and "malformed" in reason:  # SQLite's word for a damaged database
            raise damaged(path, reason) from error
        if path is not None and any(sign in reason for sign in HALF_MADE):
            raise half_made(path, reason) from error
        raise TrackingError(
            f"the tracking store {without_password(uri)} cannot be used ({type(error).__name__}: {reason}); "
            "repair it, or record elsewhere with tracking=server tracking.uri=URI"
        ) from error


@contextmanager
def read_store(uri: str | None, experiment: str | None = None) -> Iterator[Store]:
    """Open a store to read from it; nothing is created or changed, and it need not be writable.

    Args:
        uri: Its address; None is ./mlflow.db.
        experiment: The experiment whose runs are searched; None to search nothing.

    Raises:
        TrackingError: If the store cannot be read, or there is no such store or experiment.
    """
    where = resolve_uri(uri or LOCAL_URI)
    check_address(where)
    shown = without_password(where)
    with _reading_client(where, sqlite_path(where)) as client:
        with tracking_errors(f"{shown} cannot be read", where), patience():
            found = client.get_experiment_by_name(experiment) if experiment is not None else None
        if experiment is not None and found is None:
            raise TrackingError(f"{shown} has no experiment {experiment!r}; name another one")
        yield Store(client, where, str(found.experiment_id) if found is not None else "", experiment or "")


@contextmanager
def _reading_client(uri: str, database: Path | None) -> Iterator[MlflowClient]:
    """Yield a client that reads a store, or a copy of a SQLite store."""
    if database is None:
        with tracking_errors(f"{without_password(uri)} cannot be read"):
            client = quiet_client(uri)
        yield client
        return
    if client := _client_in_place(database):
        try:
            yield client
        finally:
            _disconnect(client.tracking_uri)
        return
    with snapshot(database) as copy:
        check_tables(database, copy)
        address = f"sqlite:///{copy}"
        try:
            with tracking_errors(f"{database} cannot be read by this version of MLflow"):
                client = _client_of_copy(address)
            yield client
        finally:
            _forget(address)


def _client_in_place(database: Path) -> MlflowClient | None:
    """Return a client of a large database that cannot change it; None if a copy must be read."""
    address = in_place(database)
    if address is None:
        return None
    check_tables(database, database)
    try:
        return quiet_client(address)
    except Exception as error:  # an older MLflow wrote it, so that a copy must be migrated; or it is damaged
        log.debug("%s is read through a copy: %s", database, error)
        _forget(address)
        return None


def _client_of_copy(address: str) -> MlflowClient:
    """Return a client of a copy of a database, which is migrated if an older MLflow wrote it."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils

    try:
        return quiet_client(address)
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
    utils._upgrade_db(utils.create_sqlalchemy_engine(address))
    return quiet_client(address)


def _forget(address: str) -> None:
    """Make MLflow close a database that is removed: it would keep it open until this process ends."""
    for engines in _engines():
        if engine := engines.pop(address, None):
            engine.dispose()


def _disconnect(address: str) -> None:
    """Make MLflow close a database, which it opens again when it is read again."""
    for engines in _engines():
        if engine := engines.get(address):
            engine.dispose()


def _engines() -> list[dict[str, Any]]:
    """Return the databases that MLflow has open, by their addresses: those of runs, and those of registered models."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return [getattr(store, "_engine_map", {}) for store in (SqlAlchemyStore, Registry)]


def quiet_client(uri: str) -> MlflowClient:
    """Return a client of the store: no telemetry, no INFO lines, no minutes of retries."""
    _quiet_mlflow()
    import mlflow

    return mlflow.MlflowClient(uri, registry_uri=uri)


def _quiet_mlflow() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow  # noqa: F401  # it sets the levels, which are changed here

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log what they also raise


def _create(path: Path) -> None:
    """Create a database beside its place and rename it: an unfinished one cannot be used."""
    target = path.resolve()  # of a link
    made = target.with_name(f".{target.name}.new")
    remove_database(made)  # of an attempt that was killed
    _quiet_mlflow()
    try:
        create_tables(made)
        if is_new(path):  # no other program has created it meanwhile
            made.replace(target)
    finally:
        remove_database(made)


def _open(uri: str, name: str, artifacts: Path | None) -> Store:
    from mlflow.exceptions import MlflowException

    client = quiet_client(uri)
    location = artifacts.as_uri() if artifacts else None
    with patience():
        experiment: Any = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return Store(client, uri, client.create_experiment(name, artifact_location=location), name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process has just created it
    if not experiment.experiment_id:
        raise TrackingError(
            f"{without_password(uri)} does not answer like an MLflow server; "
            "correct tracking.uri, or use tracking=local"
        )
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the experiment {name!r} in {uri} is deleted; restore it with "
            f"`mlflow experiments restore -x {experiment.experiment_id}` or choose tracking.experiment=OTHER"
        )
    return Store(client, uri, str(experiment.experiment_id), name)

"""What a run recorded, delivered to its store. It can be repeated from any point, and nothing is there twice.

The run is looked for by the id of its result before one is created. Tags and files replace what is there, metrics have
the time at which they were measured, so that the store knows them again, and the status comes last: a run that is
FINISHED has everything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.config import Tracking
from quantexp.system.errors import TrackingError
from quantexp.tracking.address import bare, impatient, patience
from quantexp.tracking.names import ERROR, PARENT, PROCESS, RESULT
from quantexp.tracking.outbox import (
    RESULT_ID,
    Dataset,
    KeptRun,
    Record,
    folders,
    may_be_of,
    outbox_of,
    read,
    remove_rest,
    take,
)
from quantexp.tracking.store import Store, open_store, tracking_errors

if TYPE_CHECKING:
    from mlflow.entities import Run

IN_A_CALL, TAGS_IN_A_CALL, PARAMS_IN_A_CALL = 1000, 100, 100  # MLflow's limits; the first is that of all together


@dataclass(frozen=True)
class Delivered:
    """How many results were delivered, and a line for each that was not."""

    count: int = 0
    problems: tuple[str, ...] = ()


def begin(store: Store, record: Record) -> str:
    """Create the run of a record, with its tags and parameters, and return its id. Raises any error of the store.

    The request is not repeated: a server that goes away after it created the run would create another one.
    """
    tags = {**record.tags, RESULT: record.id}
    parent = tags.get(PARENT, "")
    if parent.startswith(RESULT_ID) and (found := _find(store, parent)):
        tags[PARENT] = found  # of a study that had no run yet
    with impatient():
        run = store.client.create_run(
            store.experiment_id, start_time=record.started_ms, run_name=record.name, tags=tags
        )
    run_id = record.run_id = str(run.info.run_id)
    _log_batches(store, run_id, replace(record, tags={}, samples=[]))
    return run_id


def find_or_begin(store: Store, record: Record) -> str:
    """Return the id of the run of a record, which is created if the store has none. Raises any error of the store."""
    run = _run_of(store, record)
    return begin(store, record) if run is None else str(run.info.run_id)


def deliver_kept(kept: KeptRun, store: Store) -> None:
    """Deliver a result of another process or of an earlier one, and remove it from the outbox. Raises TrackingError."""
    record = kept.record
    with tracking_errors(f"the run {record.name} cannot be recorded", store.uri):
        run = _run_of(store, record)
        if run is None or not _is_newer(run, record):
            run_id = begin(store, record) if run is None else run.info.run_id
            _clean(store, run, record)
            deliver(store, run_id, record, kept.files)
            record.run_id = run_id
    kept.remove()


def deliver(store: Store, run_id: str, record: Record, files: Path | None) -> None:
    """Record what a record has of a run, and its files; the status last. Raises any error of the store."""
    _log_batches(store, run_id, record)
    if record.dataset is not None:
        _log_dataset(store, run_id, record.dataset)
    if files is not None and any(files.iterdir()):
        store.log_files(run_id, files)
    if record.status is not None:
        store.client.set_terminated(run_id, record.status, record.ended_ms)


def deliver_waiting(tracking: Tracking) -> Delivered:
    """Deliver the results in the outbox that wait for this store; stop at the first that the store does not take."""
    outbox, address = outbox_of(tracking), bare(tracking.uri)
    found = []
    for folder in folders(outbox):
        if not may_be_of(folder, address):
            continue
        try:
            record = read(folder)
        except TrackingError:  # not yet written, or damaged: `sync` says so
            remove_rest(folder)
            continue
        if record.uri == address:
            found.append((record.started_ms, folder))
    return deliver_folders([folder for _, folder in sorted(found)], tracking)


def deliver_folders(chosen: Sequence[Path], tracking: Tracking) -> Delivered:
    """Deliver results to a store, each in its experiment; stop at the first that the store does not take."""
    stores: dict[str, Store] = {}
    count = 0
    for folder in chosen:
        try:
            if (kept := take(folder)) is None:
                continue
            try:
                name = kept.record.experiment
                if name not in stores:
                    stores[name] = open_store(replace(tracking, experiment=name))
                deliver_kept(kept, stores[name])
            finally:
                kept.release()
        except TrackingError as error:
            return Delivered(count, (str(error),))
        count += 1
    return Delivered(count)


def _run_of(store: Store, record: Record) -> Run | None:
    """Return the run of a result; None if the store has none."""
    from mlflow.exceptions import MlflowException

    with patience():
        if record.run_id is not None:
            try:
                return store.client.get_run(record.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        found = _find(store, record.id)
        return store.client.get_run(found) if found else None


def _find(store: Store, result: str) -> str | None:
    """Return the id of the run with this result."""
    if not result.isalnum():
        return None
    found = store.client.search_runs([store.experiment_id], f"tags.`{RESULT}` = '{result}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def _is_newer(run: Run, record: Record) -> bool:
    """Return whether the store has all of a result, or another process has resumed the run since.

    Raises:
        TrackingError: If the run was deleted.
    """
    if run.info.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the run {record.name} was deleted before its result was delivered; restore it with "
            f"`mlflow runs restore --run-id {run.info.run_id}`, or remove the kept result"
        )
    resumed = run.data.tags.get(PROCESS, record.process) != record.process
    return resumed or (record.status is not None and (run.info.status, run.info.end_time) == _end(record))


def _end(record: Record) -> tuple[str | None, int | None]:
    return record.status, record.ended_ms


def _clean(store: Store, run: Run | None, record: Record) -> None:
    """Remove the error of a run that was closed as KILLED before its result was delivered."""
    if run is not None and record.status == "FINISHED" and ERROR in run.data.tags:
        store.client.delete_tag(run.info.run_id, ERROR)


def _log_batches(store: Store, run_id: str, record: Record) -> None:
    """Record tags, parameters and metrics in as few calls as MLflow takes: each costs the same with few or many."""
    from mlflow.entities import Metric, Param, RunTag

    tags = [RunTag(name, value) for name, value in record.tags.items() if name != PARENT]
    params = [Param(name, value) for name, value in record.params.items()]
    metrics = [Metric(sample.name, sample.value, sample.time_ms, sample.step) for sample in record.samples]
    waiting: AbstractContextManager[None] = patience()  # the first request finds out whether the server is there
    while tags or params or metrics:
        some_tags, tags = tags[:TAGS_IN_A_CALL], tags[TAGS_IN_A_CALL:]
        some_params, params = params[:PARAMS_IN_A_CALL], params[PARAMS_IN_A_CALL:]
        room = IN_A_CALL - len(some_tags) - len(some_params)
        some_metrics, metrics = metrics[:room], metrics[room:]
        with waiting:
            store.client.log_batch(run_id, some_metrics, some_params, some_tags)
        waiting = nullcontext()


def _log_dataset(store: Store, run_id: str, data: Dataset) -> None:
    from mlflow.entities import Dataset as Logged
    from mlflow.entities import DatasetInput, InputTag

    source, profile = json.dumps({"origin": data.origin}), json.dumps(dict(data.rows))
    logged = Logged(name=data.name, digest=data.digest, source_type="local", source=source, profile=profile)
    context = InputTag("mlflow.data.context", data.context)
    store.client.log_inputs(run_id, [DatasetInput(logged, [context])])

"""One run in MLflow: opened before the work starts, closed as FINISHED, FAILED or KILLED."""

from __future__ import annotations

import functools
import getpass
import logging
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from quantexp.config import Server, Tracking
from quantexp.system import environment
from quantexp.system.errors import TrackingError
from quantexp.system.version import __version__
from quantexp.tracking.address import bare
from quantexp.tracking.delivery import begin, deliver, find_or_begin
from quantexp.tracking.names import ERROR, PROCESS, RESULT, as_text
from quantexp.tracking.outbox import Dataset, KeptRun, Record, Sample, keep, outbox_of
from quantexp.tracking.processes import mark
from quantexp.tracking.store import Store, open_store, tracking_errors
from quantexp.tracking.views import directions

__all__ = ["Dataset", "Point", "TrackedRun", "track"]

log = logging.getLogger(__name__)

NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Point(NamedTuple):
    """A value of a metric, at a step where it has several."""

    name: str
    value: float
    step: int = 0


class TrackedRun:
    """A run that is recorded. What its store does not take is kept on disk, to be delivered later.

    `store` is None while the store does not answer.
    """

    def __init__(self, store: Store | None, record: Record, tracking: Tracking) -> None:
        self.store = store
        self.record = record
        self.rest = record  # what the store does not have yet
        self.problem: str | None = None  # why the last delivery failed
        self._tracking = tracking
        self._kept: KeptRun | None = None

    @property
    def run_id(self) -> str:
        """The id of the run; that of its result while the store does not know the run."""
        return self.record.run_id or self.record.id

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.record.name

    def where(self) -> list[str]:
        """Return lines that say where the run is recorded and how to open it."""
        return directions(self.store, self.name, self.run_id) if self.store else []

    @property
    def folder(self) -> Path:
        """The folder whose files are recorded with what is logged next, or when the run ends. Raises TrackingError."""
        with _on_disk(self.name):
            return self._keep().files

    def discard(self) -> None:
        """Remove what is in the folder."""
        if self._kept is not None:
            shutil.rmtree(self._kept.files, ignore_errors=True)

    def add(
        self, points: Iterable[Point] = (), tags: Mapping[str, str] = NO_TAGS, dataset: Dataset | None = None
    ) -> None:
        """Add figures, tags and the data to what is recorded next, or when the run ends."""
        now = int(time.time() * 1000)
        samples = [Sample(point.name, point.value, point.step, now) for point in points]
        for record in self._records():
            record.samples = record.samples + samples
            record.tags = {**record.tags, **tags}
            record.dataset = dataset or record.dataset

    def log(
        self,
        points: Iterable[Point] = (),
        tags: Mapping[str, str] = NO_TAGS,
        dataset: Dataset | None = None,
        folder: Path | None = None,
    ) -> None:
        """Record figures, tags, the data, and all files of a folder now. Raises TrackingError if nothing takes them.

        There are few calls, as each costs the same with one metric as with fifty.
        """
        self.add(points, tags, dataset)
        if folder is not None:
            with _on_disk(self.name):
                shutil.copytree(folder, self.folder, dirs_exist_ok=True)
        self.send()

    def log_text(self, file: str, text: str) -> None:
        """Record a file of text now. Raises TrackingError if nothing takes it."""
        with _on_disk(self.name):
            (self.folder / file).write_text(text, encoding="utf-8")
        self.send()

    def send(self) -> None:
        """Keep what was added on disk, then deliver it. Raises TrackingError if neither is possible."""
        with _on_disk(self.name):
            kept = self._keep()
        full: OSError | None = None
        try:
            kept.write()
        except OSError as error:
            full = error  # the store may still take it
        try:
            with tracking_errors(f"the run {self.name} cannot be recorded", bare(self._tracking.uri)):
                if self.store is None:
                    self.store = open_store(self._tracking)
                self.record.run_id = self.record.run_id or find_or_begin(self.store, self.record)
                deliver(self.store, self.record.run_id, self.rest, kept.files)
        except TrackingError as error:
            if full is not None:
                raise TrackingError(f"{error}\n{kept.folder} is not writable ({full.strerror or full})") from error
            self.problem = str(error)
            return
        self.problem = None
        self.delivered()
        if self.record.status is None:
            kept.unwrite()
        else:
            kept.remove()
            self._kept = None

    def delivered(self) -> None:
        """Remember that the store has all that the record has now."""
        self.rest = replace(self.record, params={}, tags={}, samples=[], dataset=None)

    def end(self, status: str, error: str | None = None) -> None:
        """Close the run with its status. Raises TrackingError if that can be neither kept nor delivered."""
        now = int(time.time() * 1000)
        self.add(tags={} if error is None else {ERROR: error[:5000]})
        for record in self._records():
            record.status, record.ended_ms = status, now
        try:
            self.send()
        finally:
            if self._kept is not None:
                self._kept.release()

    @property
    def kept(self) -> str | None:
        """A sentence that says where the result is kept and how it is delivered; None if the store has it."""
        if self._kept is None or self.problem is None:
            return None
        return (
            f"{self.name} is kept, not delivered yet: {self.problem}. The next run with this store delivers it, or "
            f"python -m quantexp.sync {shlex.quote(str(self._kept.folder))}"
        )

    def _records(self) -> list[Record]:
        return [self.record] if self.rest is self.record else [self.record, self.rest]

    def _keep(self) -> KeptRun:
        if self._kept is None:
            try:
                self._kept = keep(outbox_of(self._tracking), self.record)
            except OSError:  # not writable, or full
                self._kept = keep(Path(tempfile.mkdtemp(prefix="quantexp-outbox-")), self.record)
        return self._kept


@contextmanager
def _on_disk(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrackingError(
            f"the result of {name} can be kept in no folder ({error.strerror or error}); free space, or choose "
            "another folder with tracking.keep_in=FOLDER"
        ) from error


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
        _end(run, "KILLED", "interrupted")
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

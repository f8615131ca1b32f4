"""A run that is open: what is added to it goes to the store, or stays on disk until the store takes it."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from quantexp.config import Tracking
from quantexp.system.errors import TrackingError
from quantexp.tracking.address import bare
from quantexp.tracking.delivery import deliver, find_or_begin
from quantexp.tracking.names import ERROR
from quantexp.tracking.outbox import Dataset, KeptRun, Record, Sample, keep, outbox_of
from quantexp.tracking.store import Store, open_store, tracking_errors
from quantexp.tracking.views import directions

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

    @contextmanager
    def files(self) -> Iterator[Path]:
        """Yield the folder whose files are recorded with what is logged next, or when the run ends.

        Files of a block that fails are removed, so that no half of a result is recorded.

        Raises:
            TrackingError: If they cannot be written.
        """
        try:
            folder = self._keep().files
            known = set(folder.iterdir())
            try:
                yield folder
            except BaseException:
                for path in set(folder.iterdir()) - known:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                raise
        except OSError as error:
            raise TrackingError(
                f"the files of {self.name} cannot be written ({error.strerror or error}); free space, or choose "
                "another folder with tracking.keep_in=FOLDER"
            ) from error

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
            with self.files() as files:
                shutil.copytree(folder, files, dirs_exist_ok=True)
        self.send()

    def log_text(self, file: str, text: str) -> None:
        """Record a file of text now. Raises TrackingError if nothing takes it."""
        with self.files() as files:
            (files / file).write_text(text, encoding="utf-8")
        self.send()

    def send(self) -> None:
        """Keep what was added on disk, then deliver it. Raises TrackingError if neither is possible."""
        files: Path | None = None
        full: OSError | None = None
        try:
            kept = self._keep()
            files = kept.files
            kept.write()
        except OSError as error:
            full = error  # the store may still take it
        try:
            with tracking_errors(f"the run {self.name} cannot be recorded", bare(self._tracking.uri)):
                if self.store is None:
                    self.store = open_store(self._tracking)
                self.record.run_id = self.record.run_id or find_or_begin(self.store, self.record)
                deliver(self.store, self.record.run_id, self.rest, files)
        except TrackingError as error:
            if full is not None:
                raise TrackingError(f"{error}\nIt cannot be kept on disk either ({full.strerror or full})") from error
            self.problem = str(error)
            return
        self.problem = None
        self.delivered()
        if self._kept is None:
            return
        if self.record.status is None:
            self._kept.unwrite()
        else:
            self._kept.remove()
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

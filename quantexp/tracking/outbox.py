"""Results on disk that their store does not have yet: a folder for each run, with `record.json` and the run's files.

A result is written here before it is delivered, and removed when the store has all of it. So neither a server that
goes away nor a killed process loses it. `record.json` is written last, beside its place, and renamed: a folder without
it is no result yet. A process locks the results that it works on, so that no other process delivers them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import filelock

from quantexp.config import Tracking
from quantexp.system.cache import cache_folder, write_atomically
from quantexp.system.errors import CacheError, TrackingError

FORMAT = 1
RECORD_FILE, FILES = "record.json", "files"
RESULT_ID = "result"  # how the ids of results begin; those of runs are hexadecimal
MOST_BYTES = 2**26  # of a record


class Sample(NamedTuple):
    """A value of a metric at a step, with its time: a sample that is sent again is then the same sample."""

    name: str
    value: float
    step: int
    time_ms: int


@dataclass(frozen=True)
class Dataset:
    """The data of a run: `rows` has the number of examples of each split, `context` the split of the evaluation."""

    name: str
    digest: str
    origin: str
    rows: Mapping[str, int]
    context: str


@dataclass
class Record:
    """What is recorded of a run, all of it: it can also be delivered to another store.

    `id` is that of the result, by which the store is searched if `run_id` is not known. `uri` is the address of the
    store without user and password, `process` the mark of the process that ran it. `status` is None until it ends.
    """

    uri: str
    experiment: str
    name: str
    process: str
    started_ms: int
    id: str = field(default_factory=lambda: f"{RESULT_ID}{uuid.uuid4().hex}")
    run_id: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    dataset: Dataset | None = None
    status: str | None = None
    ended_ms: int | None = None
    format: int = FORMAT


class KeptRun:
    """A record and its files in a folder, which this process has locked."""

    def __init__(self, folder: Path, record: Record, lock: filelock.BaseFileLock) -> None:
        self.folder = folder
        self.record = record
        self._lock = lock

    @property
    def files(self) -> Path:
        """The folder of the run's files. Raises OSError."""
        files = self.folder / FILES
        files.mkdir(parents=True, exist_ok=True)
        return files

    def write(self) -> None:
        """Write the record; from now on the result survives. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / RECORD_FILE, json.dumps(asdict(self.record), indent=1).encode())

    def unwrite(self) -> None:
        """Remove the record: the store has what it has. The files stay for the next record of the same run."""
        with suppress(OSError):
            (self.folder / RECORD_FILE).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the record and its files, and release the lock."""
        self.unwrite()  # first: what is left of the folder is no result
        with suppress(OSError):
            shutil.rmtree(self.folder, ignore_errors=True)
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Release the lock: another process may deliver the result."""
        self._lock.release()


def outbox_of(tracking: Tracking) -> Path:
    """Return the folder of the results that wait for their store; a temporary one if the cache is not writable."""
    try:
        return cache_folder(tracking.keep_in, "outbox")
    except CacheError:
        return Path(tempfile.mkdtemp(prefix="quantexp-outbox-"))


def keep(outbox: Path, record: Record) -> KeptRun:
    """Begin to keep a record, locked by this process. Raises OSError."""
    outbox.mkdir(parents=True, exist_ok=True)
    folder = outbox / record.id
    lock = _lock(folder)
    lock.acquire(timeout=0)
    return KeptRun(folder, record, lock)


def waiting(outbox: Path) -> list[Record]:
    """Return the readable records of an outbox, the oldest first, also those that another process works on."""
    found = []
    for folder in folders(outbox):
        with suppress(TrackingError):
            found.append(read(folder))
    return sorted(found, key=lambda record: record.started_ms)


def take(folder: Path) -> KeptRun | None:
    """Lock a result to deliver it; None if another process works on it, or has just delivered it.

    Raises:
        TrackingError: If it cannot be read, or is not one that quantexp wrote.
    """
    lock = _lock(folder)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    except OSError as error:
        raise TrackingError(f"{folder} is not writable ({error.strerror or error}); make it writable") from error
    if not (folder / RECORD_FILE).is_file():
        lock.release()
        return None
    try:
        return KeptRun(folder, read(folder), lock)
    except TrackingError:
        lock.release()
        raise


def may_be_of(folder: Path, uri: str) -> bool:
    """Return whether a record may wait for this store, without reading all of it: its address is at the beginning."""
    try:
        with (folder / RECORD_FILE).open("rb") as file:
            return json.dumps(uri).encode() in file.read(4096)
    except OSError:
        return True


def remove_rest(folder: Path) -> None:
    """Remove a folder without a record, unless its process is at work: that was killed before it had a result."""
    lock = _lock(folder)
    with suppress(OSError):  # also if another process holds the lock
        lock.acquire(timeout=0)
        if not (folder / RECORD_FILE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def folders(outbox: Path) -> Iterator[Path]:
    """Yield the folders of an outbox."""
    with suppress(OSError):
        yield from sorted(path for path in outbox.iterdir() if path.is_dir() and not path.is_symlink())


def read(folder: Path) -> Record:
    """Return the record in a folder. Raises TrackingError."""
    from pydantic import TypeAdapter

    path = folder / RECORD_FILE
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes")
        record = TypeAdapter(Record).validate_json(path.read_bytes())
        if record.format != FORMAT:
            raise ValueError(f"it has format {record.format}, this version reads {FORMAT}")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrackingError(f"{path} is not a result that quantexp kept ({reason}); name another folder") from error
    if linked := next((path for path in folder.rglob("*") if path.is_symlink()), None):
        raise TrackingError(f"a kept result has plain files only, {linked} is a link; remove it")
    return record


def _lock(folder: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(folder.with_name(f"{folder.name}.lock"))

"""Files read from a store, whose content is not trusted.

Files are fetched by known names only, into a temporary folder, up to a maximum size. Nothing that the store lists is
used as a path: MLflow's own download of a folder takes all files of any size, and follows the store to any address.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password
from quantexp.tracking.sqlite import ARTIFACTS, local_path, run_folder
from quantexp.tracking.store import RunFacts, Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_BYTES = 2**26  # of a single file that is read into memory
CLOUDS = ("s3", "gs", "wasbs")  # their addresses are those of the cloud


@contextmanager
def fetched(store: Store, run: RunFacts, files: Mapping[str, int]) -> Iterator[Path]:
    """Yield a folder with the named files that a run stored; files that it did not store are missing.

    Args:
        store: Where the run is recorded.
        run: The run.
        files: Path of each file below the run, and the most bytes that it may have; all have different names.

    Raises:
        TrackingError: If a file is larger, lies outside its run, or cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        for path, most in files.items():
            try:
                _fetch(store, run, path, Path(scratch), most)
            except Exception as error:  # MLflow passes on any error of its stores
                reason = without_password(" ".join(str(error).split()))[:300]
                raise TrackingError(f"{path} of run {run.run_id} cannot be read ({reason})") from error
        yield Path(scratch)


def read_artifact(store: Store, run: RunFacts, path: str, most: int = MOST_BYTES) -> bytes:
    """Return the content of one file that a run stored.

    Raises:
        TrackingError: If there is no such file, it is larger than `most` bytes, or it lies outside the run.
    """
    with fetched(store, run, {path: most}) as folder:
        file = folder / PurePosixPath(path).name
        if not file.is_file():
            raise TrackingError(f"{path} of run {run.run_id} cannot be read ({why_missing(store, run)})")
        return file.read_bytes()


def why_missing(store: Store, run: RunFacts) -> str:
    """Return why a file of a run is missing: it was not stored, or none of the run's files is found."""
    beside, recorded = _beside(store, run), local_path(run.artifact_uri)
    if beside is None or beside.is_dir() or recorded is None or recorded.is_dir():
        return "the run did not store it"
    elsewhere = "" if recorded == beside else f", nor is {recorded}, where they were recorded"
    return f"there is no folder {beside} with its files{elsewhere}; copy {ARTIFACTS} there from the original store"


def _beside(store: Store, run: RunFacts) -> Path | None:
    return run_folder(store.database, run.run_id) if store.database else None


def _fetch(store: Store, run: RunFacts, path: str, folder: Path, most: int) -> bool:
    """Copy one file of a run into `folder`, under its own name; False if the run has no such file.

    The folder beside the database comes before the recorded one, which may be that of a store that was moved.
    """
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts or not inside.name:
        raise ValueError(f"an artifact must lie below its run, {path!r} does not")
    target, address = folder / inside.name, run.artifact_uri
    if (beside := _beside(store, run)) and beside.is_dir():
        if not beside.resolve().is_relative_to(beside.parents[1].resolve()):
            raise ValueError(f"an artifact must lie below its run, {beside} is a link to {beside.resolve()}")
        return _copy(beside, inside, target, most)
    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        recorded = local_path(address)
        if recorded is None:
            raise ValueError(f"a folder of artifacts must have an absolute path on this machine, got {address!r}")
        return _copy(recorded, inside, target, most)
    tracking = urlsplit(store.client.tracking_uri).netloc.rpartition("@")[2]
    proxied = parts.scheme == "mlflow-artifacts" and parts.netloc.rpartition("@")[2] in ("", tracking)
    if not proxied and parts.scheme not in CLOUDS:  # others could send credentials to any host
        raise ValueError(
            f"artifacts are read from folders, from the tracking server and from {', '.join(CLOUDS)}, "
            f"these lie at {address!r}"
        )
    return _download(store.client, address, inside, target, most)


def _copy(root: Path, inside: PurePosixPath, target: Path, most: int) -> bool:
    root = root.resolve()
    source = (root / inside).resolve()  # links followed
    if not source.is_relative_to(root):
        raise ValueError(f"an artifact must lie below its run, {str(inside)!r} is a link to {source}")
    if not source.is_file():  # such as a pipe or a device
        return False
    _refuse_more_than(most, inside, source.stat().st_size)
    shutil.copyfile(source, target)
    return True


def _download(client: MlflowClient, address: str, inside: PurePosixPath, target: Path, most: int) -> bool:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(address, tracking_uri=client.tracking_uri)
    parent = "" if inside.parent == PurePosixPath() else str(inside.parent)
    listed = {entry.path: entry for entry in repository.list_artifacts(parent or None)}
    entry = listed.get(str(inside))
    if entry is None or entry.is_dir:
        return False
    _refuse_more_than(most, inside, entry.file_size)
    # Not `download_artifacts`, which would take a whole folder if the server says that this is one.
    repository._download_file(str(inside), str(target))
    _refuse_more_than(most, inside, target.stat().st_size)
    return True


def _refuse_more_than(most: int, inside: PurePosixPath, size: int | None) -> None:
    if size is None or size > most:
        raise ValueError(f"{inside} may have {most:,} bytes, it has {'an unknown number' if size is None else size}")

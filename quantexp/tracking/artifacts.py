"""Files read back from a store, whose content is not trusted.

Only files that are asked for by name are fetched, each into a folder of our own and none beyond a size.
Nothing that the store lists is used as a path: MLflow's own download of a folder takes whatever is in it,
of whatever size, and follows the store to any address.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password
from quantexp.tracking.store import RunFacts, Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_BYTES = 2**26  # of a single file that is read into memory
CLOUDS = ("s3", "gs", "wasbs")  # the address is the cloud's, whatever the store says


@contextmanager
def fetched(store: Store, run: RunFacts, files: Mapping[str, int]) -> Iterator[Path]:
    """Give a folder with those of the named files that a run stored.

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
                _fetch(store.client, run, path, Path(scratch), most)
            except Exception as error:  # MLflow raises whatever its stores raise
                reason = without_password(" ".join(str(error).split()))[:300]
                raise TrackingError(f"{path} of run {run.run_id} cannot be read ({reason})") from error
        yield Path(scratch)


def read_artifact(store: Store, run: RunFacts, path: str, most: int = MOST_BYTES) -> bytes:
    """Return the content of one file that a run stored.

    Raises:
        TrackingError: If there is no such file, it is larger than `most` bytes, or it lies outside its run.
    """
    with fetched(store, run, {path: most}) as folder:
        file = folder / PurePosixPath(path).name
        if not file.is_file():
            raise TrackingError(f"{path} of run {run.run_id} cannot be read (it stored no such file)")
        return file.read_bytes()


def _fetch(client: MlflowClient, run: RunFacts, path: str, folder: Path, most: int) -> bool:
    """Copy one file of a run into `folder`, under its own name; False if the run has no such file."""
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts or not inside.name:
        raise ValueError(f"an artifact lies below its run, {path!r} does not")
    target = folder / inside.name
    address = run.artifact_uri
    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        return _copy(address, inside, target, most)
    tracking = urlsplit(client.tracking_uri).netloc.rpartition("@")[2]
    proxied = parts.scheme == "mlflow-artifacts" and parts.netloc.rpartition("@")[2] in ("", tracking)
    if not proxied and parts.scheme not in CLOUDS:  # anything else could send our credentials to any host
        raise ValueError(
            f"artifacts are read from folders, from the tracking server and from {', '.join(CLOUDS)}, "
            f"these lie at {address!r}"
        )
    return _download(client, address, inside, target, most)


def _copy(address: str, inside: PurePosixPath, target: Path, most: int) -> bool:
    parts = urlsplit(address)
    root = Path(url2pathname(parts.path) if parts.scheme else address)
    if not root.is_absolute() or parts.netloc not in ("", "localhost"):
        raise ValueError(f"a folder of artifacts has an absolute path on this machine, got {address!r}")
    root = root.resolve()
    source = (root / inside).resolve()  # links followed
    if not source.is_relative_to(root):
        raise ValueError(f"an artifact lies below its run, {str(inside)!r} is a link to {source}")
    if not source.is_file():  # a pipe or a device is none
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
    # Not `download_artifacts`: it asks again whether this is a folder, and then takes all that it is told.
    repository._download_file(str(inside), str(target))
    _refuse_more_than(most, inside, target.stat().st_size)
    return True


def _refuse_more_than(most: int, inside: PurePosixPath, size: int | None) -> None:
    if size is None or size > most:
        raise ValueError(f"{inside} may have {most:,} bytes, it has {'an unknown number' if size is None else size}")

"""What is read back from a store, whose content is not trusted.

Only files that are asked for by name are fetched, each into a folder of our own and none beyond a size.
Nothing that the store lists is a path of ours: MLflow's own download of a folder takes whatever is in it,
of whatever size, and follows the store to any address.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password
from quantexp.tracking.store import quiet_client, resolve_uri, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "model"  # the folder of a run's artifacts that its model lies in
MOST_BYTES = 2**26  # of a single file that is read into memory
CLOUDS = ("s3", "gs", "wasbs")  # the address is the cloud's, whatever the store says


@contextmanager
def model_folder(run_id: str, uri: str | None) -> Iterator[Path]:
    """Give a folder with the files of the model that a run stored. Raises TrackingError."""
    from quantexp.storage.stored import FILES, RECIPE

    where = resolve_uri(uri or "sqlite:///mlflow.db")
    path = sqlite_path(where)
    if path is not None and not path.is_file():
        raise TrackingError(
            f"{run_id} is neither a folder with a stored model nor a run: there is no store {path}; "
            "start where it lies, or give tracking_uri="
        )
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        folder = Path(scratch)
        try:
            client = quiet_client(where)
            found = [name for name, most in FILES.items() if _fetch(client, run_id, f"{MODEL}/{name}", folder, most)]
            if RECIPE not in found:
                raise FileNotFoundError(f"it stored no {MODEL}/{RECIPE}")
        except Exception as error:  # MLflow raises whatever its stores raise
            reason = without_password(" ".join(str(error).split()))[:300]
            shown = without_password(where)
            raise TrackingError(f"no model of run {run_id} can be read from {shown} ({reason})") from error
        yield folder


def read_artifact(client: MlflowClient, run_id: str, path: str, most: int = MOST_BYTES) -> bytes:
    """Return the content of one file that a run stored, such as `report.json`.

    Raises:
        TrackingError: If there is no such file, it is larger than `most` bytes, or it lies outside its run.
    """
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        try:
            if not _fetch(client, run_id, path, Path(scratch), most):
                raise FileNotFoundError("it stored no such file")
        except Exception as error:  # MLflow raises whatever its stores raise
            reason = without_password(" ".join(str(error).split()))[:300]
            raise TrackingError(f"{path} of run {run_id} cannot be read ({reason})") from error
        return (Path(scratch) / PurePosixPath(path).name).read_bytes()


def _fetch(client: MlflowClient, run_id: str, path: str, folder: Path, most: int) -> bool:
    """Copy one file of a run into `folder`, under its own name; False if the run has no such file."""
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts or not inside.name:
        raise ValueError(f"an artifact lies below its run, {path!r} does not")
    target = folder / inside.name
    address = str(client.get_run(run_id).info.artifact_uri)
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

"""The user's cache directory, locks between processes, and atomic writing of files."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import platformdirs

from quantexp.system.errors import CacheError, QuantexpError

log = logging.getLogger(__name__)


def cache_folder(cache_dir: str | None, part: str) -> Path:
    """Return the folder of one part of the cache, created if necessary. Raises CacheError."""
    root = Path(cache_dir) if cache_dir else Path(platformdirs.user_cache_dir("quantexp", appauthor=False))
    folder = root.expanduser().absolute() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error
    return folder


@contextmanager
def locked(
    path: Path, waiting_for: str, unusable: Callable[[Path, OSError], QuantexpError] | None = None
) -> Iterator[None]:
    """Hold the lock file `path`; the operating system releases it if its holder dies.

    Raises:
        CacheError: If its folder is not writable, or the error that `unusable` returns.
    """
    lock = filelock.FileLock(path)
    try:
        path.touch()  # filelock would try forever in a folder that is not writable
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.info("waiting   %s", waiting_for)
            lock.acquire()
    except OSError as error:
        raise (unusable or _unusable)(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, content: bytes) -> None:
    """Write `path` so that a reader sees all of it or nothing, also after a crash. Raises OSError."""
    with written_atomically(path) as scratch:
        scratch.write_bytes(content)


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a file to write, which takes the place of `path` as a whole when the block ends. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def copy_atomically(source: str | Path, target: str | Path) -> None:
    """Copy a file so that a reader of `target` sees the old content or the new one. Raises OSError."""
    with written_atomically(Path(target)) as scratch:
        shutil.copyfile(source, scratch)  # piece by piece: a file may be larger than memory


def _unusable(folder: Path, error: OSError) -> CacheError:
    return CacheError(
        f"the cache must be a writable folder, {folder} is not ({error.strerror or error}); "
        "choose another with cache_dir=FOLDER"
    )

"""Files decoded once: into memory, or into a file in the cache folder that is mapped.

A mapped file begins with a header, JSON in HEADER bytes, with a digest of the names, sizes and times of the files that
were decoded, and a digest of their content. Later runs use it as long as the former is the same. It is written under
a lock and renamed when it is complete; another data set in the same folder replaces it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quantexp.system.cache import cache_folder, locked
from quantexp.system.environment import usable_cores
from quantexp.system.errors import CacheError
from quantexp.system.host import give_way
from quantexp.system.terminal import progress
from quantexp.tasks.files import read_bytes
from quantexp.tasks.listing import File

log = logging.getLogger(__name__)

HEADER = 4096  # bytes; a multiple of the page size
THREADS = 8  # at most
PIECE = 256  # files that are decoded before the next ones are read

Decode = Callable[[bytes, Path], NDArray[Any]]
"""Returns the example in the content of a file. Raises DataError, which names the path."""


@dataclass(frozen=True)
class Decoded:
    """The examples of all files, shape (files, ...), and a digest of the names and contents of the files."""

    values: NDArray[Any]
    digest: str


@dataclass(frozen=True)
class Store:
    """Where decoded examples are kept.

    Attributes:
        cache_dir: The cache folder of the run.
        memory_mb: The most that is kept in memory; more is mapped from a file.
        key: All that decoding depends on besides the files, such as the size of images.
    """

    cache_dir: str | None
    memory_mb: int
    key: str

    def path(self, folder: Path) -> Path:
        """Return the file of the decoded data set in `folder`."""
        name = hashlib.sha256(f"{folder}\0{self.key}".encode()).hexdigest()[:24]
        return cache_folder(self.cache_dir, "data") / f"decoded-{name}.bin"


def decoded(
    folder: Path, files: Sequence[File], shape: tuple[int, ...], dtype: str, decode: Decode, store: Store
) -> Decoded:
    """Return the examples in files of `folder`, each of that shape and dtype.

    Raises:
        DataError: If a file cannot be read or decoded; the first one in the order of `files`.
        CacheError: If they do not fit into the memory that is allowed, and the cache folder cannot be written.
    """
    sha = hashlib.sha256()
    for file in files:
        sha.update(repr((file.name, file.value, file.size, file.modified_ns)).encode())
    stamp = sha.hexdigest()
    return kept((len(files), *shape), dtype, lambda sha: _pieces(folder, files, decode, sha), store, folder, stamp)


def rows_of(values: NDArray[Any], rows: Tensor) -> NDArray[Any]:
    """Return a copy of these examples.

    What was read of a mapped file is not kept in this process, so its memory does not grow with the examples that it
    has read; the operating system may still have them.
    """
    chosen: NDArray[Any] = values[rows.numpy()]
    if isinstance(values, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        values._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    return chosen


def kept(
    shape: tuple[int, ...],
    dtype: str,
    pieces: Callable[[Any], Iterator[NDArray[Any]]],
    store: Store,
    folder: Path,
    stamp: str,
) -> Decoded:
    """Return the examples that `pieces` yields, in memory or mapped.

    Args:
        shape: That of all examples together.
        dtype: Their dtype.
        pieces: Yields the examples in order, and adds what identifies their content to the digest that it is given.
        store: Where they are kept.
        folder: The folder of the files.
        stamp: Changes when one of the files does.

    Raises:
        DataError: As `pieces`.
        CacheError: If they do not fit into the memory that is allowed, and the cache folder cannot be written.
    """
    needed = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if needed <= store.memory_mb * 10**6:
        values, sha, at = np.empty(shape, dtype), hashlib.sha256(), 0
        for piece in pieces(sha):
            values[at : at + len(piece)] = piece
            at += len(piece)
        return Decoded(values, sha.hexdigest())
    path = store.path(folder)
    stamp = hashlib.sha256(repr((stamp, shape, dtype)).encode()).hexdigest()
    with locked(path.with_suffix(".lock"), "another process is decoding the same files"):
        digest = _digest(path, stamp, needed)
        if digest is None:
            log.info("data      decoded examples take %s MB, written to %s", f"{needed / 1e6:,.0f}", path)
            digest = _write(path, stamp, pieces)
        values = np.memmap(path, dtype, "c", HEADER, shape)  # "c": never written back
    return Decoded(values, digest)


def _pieces(folder: Path, files: Sequence[File], decode: Decode, sha: Any) -> Iterator[NDArray[Any]]:
    """Yield the decoded files, PIECE at a time; add their names and contents to the digest."""

    def read(file: File) -> tuple[NDArray[Any], bytes]:
        content = read_bytes(folder / file.name)
        return decode(content, folder / file.name), hashlib.sha256(content).digest()

    with (
        progress("decode", len(files)) as advance,
        ThreadPoolExecutor(min(THREADS, usable_cores())) as pool,
    ):
        for start in range(0, len(files), PIECE):
            give_way()
            piece = files[start : start + PIECE]
            examples = []
            for file, (example, digest) in zip(piece, pool.map(read, piece), strict=True):
                sha.update(file.name.encode() + b"\0" + digest)
                examples.append(example)
            yield np.stack(examples)
            advance(len(piece), "")


def _digest(path: Path, stamp: str, size: int) -> str | None:
    """Return the digest in a mapped file if it is complete and of the same files, else None."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(HEADER))
        complete = path.stat().st_size == HEADER + size
    except (OSError, ValueError):
        return None
    return str(header["digest"]) if complete and header.get("stamp") == stamp else None


def _write(path: Path, stamp: str, pieces: Callable[[Any], Iterator[NDArray[Any]]]) -> str:
    """Write the pieces into a file that appears when it is complete; return their digest. Raises CacheError."""
    sha = hashlib.sha256()
    scratch = None
    try:
        for left in path.parent.glob(f".{path.name}-*"):  # of a process that was killed
            left.unlink()
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "wb") as file:
            file.write(b" " * HEADER)
            for piece in pieces(sha):
                file.write(np.ascontiguousarray(piece).data)
            file.seek(0)
            file.write(json.dumps({"stamp": stamp, "digest": sha.hexdigest()}).ljust(HEADER).encode())
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except OSError as error:
        raise CacheError(
            f"decoded examples do not fit into task.memory_mb and could not be written to {path.parent} "
            f"({error.strerror or error}); free space there, choose another folder with cache_dir=FOLDER, or raise "
            "task.memory_mb"
        ) from error
    finally:
        if scratch is not None:
            Path(scratch).unlink(missing_ok=True)
    return sha.hexdigest()

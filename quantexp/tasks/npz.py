"""Arrays of the user: train.npz and test.npz, each with x and y. Nothing is unpickled. Does not import torch."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from quantexp.config import DataRequest, DataSource
from quantexp.system.errors import DataError
from quantexp.tasks.listing import check_inside, own_folder

NEEDED = "train.npz, and test.npz if there is one,"
PIECE = 2**24  # bytes that are read at a time
NUMBERS, LABELS = "buif", "buiUS"  # kinds of dtype
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True)
class Header:
    """What the beginning of an array in a file says."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class ArrayFiles:
    """The source of a task whose examples are arrays."""

    def check(self, request: DataRequest) -> None:
        """Check that the files have arrays that fit together, from their headers. Raises DataError."""
        if request.source is DataSource.full:
            self.headers(request)

    def stamp(self, request: DataRequest) -> object:
        """Return the files with their sizes and times, and the seed if it decides which rows are for testing."""
        files = self.files(request)
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files.values()]
        return tuple(stats), None if "test" in files else request.validation_seed

    def locate(self, request: DataRequest) -> tuple[Path, str]:
        """Return the folder, and in words where it is. Raises DataError."""
        return own_folder("arrays", request, NEEDED), f"data_dir {request.data_dir}"

    def files(self, request: DataRequest) -> dict[str, Path]:
        """Return the file of each split; `test` may be missing. Raises DataError."""
        folder, _ = self.locate(request)
        found = {split: folder / f"{split}.npz" for split in ("train", "test") if (folder / f"{split}.npz").is_file()}
        for path in found.values():
            check_inside(path, folder)
        if "train" not in found:
            having = ", ".join(path.name for path in sorted(folder.iterdir())[:5]) or "no files"
            raise DataError(
                f"data_dir={request.data_dir} must have train.npz, it has {having}; "
                "write it with numpy.savez('train.npz', x=..., y=...)"
            )
        return found

    def headers(self, request: DataRequest) -> dict[str, Header]:
        """Return the header of x in each split. Raises DataError."""
        files = self.files(request)
        found = {split: _checked(path) for split, path in files.items()}
        if "test" in found and found["test"].shape[1:] != found["train"].shape[1:]:
            raise DataError(
                f"{files['test']}: x must have examples of the shape {found['train'].shape[1:]} as in train.npz, "
                f"got {found['test'].shape[1:]}; write both alike"
            )
        return found


def labels(path: Path) -> list[str]:
    """Return the labels in a file as text. Raises DataError."""
    with _archive(path) as archive, archive.open("y.npy") as file:
        try:
            values = npy.read_array(file, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    kinds, labels = np.unique(values, return_inverse=True)
    texts = [str(kind).strip() for kind in kinds.tolist()]  # one text for all examples of a class
    return [texts[label] for label in labels.tolist()]


def rows(path: Path, header: Header) -> Iterator[NDArray[Any]]:
    """Yield x in pieces of rows. Raises DataError."""
    size = header.dtype.itemsize * int(np.prod(header.shape[1:], dtype=np.int64))
    with _archive(path) as archive, archive.open("x.npy") as file:
        try:
            if header.fortran:
                yield npy.read_array(file, allow_pickle=False)
                return
            _header(file)
            count = max(1, PIECE // size)
            for start in range(0, header.shape[0], count):
                piece = min(count, header.shape[0] - start)
                content = file.read(piece * size)
                if len(content) < piece * size:
                    raise EOFError("it is cut off")
                yield np.frombuffer(content, header.dtype).reshape(piece, *header.shape[1:])
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error


def _checked(path: Path) -> Header:
    """Return the header of x in a file. Raises DataError if x or y is not as it must be."""
    found = {}
    with _archive(path) as archive:
        for name in ("x", "y"):
            if f"{name}.npy" not in archive.namelist():
                having = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()) or "none"
                raise DataError(
                    f"{path}: must have the arrays x and y, it has {having}; "
                    f"write it with numpy.savez('{path.name}', x=..., y=...)"
                )
            try:
                with archive.open(f"{name}.npy") as file:
                    found[name] = _header(file)
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise _damaged(path, error) from error
    x, y = found["x"], found["y"]
    for name, header, kinds, what in (
        ("x", x, NUMBERS, "real numbers"),
        ("y", y, LABELS, "integers or strings"),
    ):
        if header.dtype.kind not in kinds:
            got = "Python objects, which are not read" if header.dtype.hasobject else str(header.dtype)
            raise DataError(f"{path}: {name} must be an array of {what}, got {got}; convert it with astype")
    if len(x.shape) < 2 or 0 in x.shape:
        raise DataError(
            f"{path}: x must have the shape (examples, ...) with at least one value for each, got {x.shape}; reshape it"
        )
    if y.shape != x.shape[:1]:
        raise DataError(
            f"{path}: y must have a label for each of the {x.shape[0]:,} examples of x, shape ({x.shape[0]},), "
            f"got {y.shape}; make both equally long"
        )
    return x


def _header(file: Any) -> Header:
    """Read the header of an array. Raises ValueError."""
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"an array has the format {version}, which is not read")
    return Header(*HEADERS[version](file))


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: an .npz file must be readable, this one is damaged ({error}); write it again")

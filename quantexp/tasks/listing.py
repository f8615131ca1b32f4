"""Folders of the user with a folder for each class: which files they have. Does not import torch.

    FOLDER/train/CLASS/...    at least one file in each class
    FOLDER/test/CLASS/...     optional; classes may be missing, new ones may not be there

Folders below that of a class belong to it. Hidden files and files of other types are ignored and counted. A link must
lead to a place in FOLDER, so that a data set contains what one sees in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from quantexp.config import DataRequest, DataSource
from quantexp.system.errors import DataError
from quantexp.system.extras import require
from quantexp.tasks.classes import Classes

SPLITS = ("train", "test")
SHOWN = 3  # ignored files in a message


@dataclass(frozen=True, slots=True)
class File:
    """A file of a data set: its path in the folder, its class, and what changes when its content does."""

    name: str
    value: str
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Listing:
    """The files of a data set, sorted by their paths. Without a test split `test` is empty."""

    folder: Path
    classes: Classes
    train: tuple[File, ...]
    test: tuple[File, ...]
    ignored: tuple[str, ...]

    @property
    def files(self) -> tuple[File, ...]:
        """All files: those of train, then those of test."""
        return self.train + self.test

    def labels(self, files: tuple[File, ...]) -> list[int]:
        """Return the labels of these files."""
        return self.classes.labels([file.value for file in files], str(self.folder))


@dataclass(frozen=True)
class ClassFolders:
    """The source of a task whose examples are files in folders of their classes.

    `what` says what the files contain, `suffixes` are their types; a type in `packages` needs that package.
    """

    task: str
    what: str
    suffixes: tuple[str, ...]
    packages: dict[str, str] = field(default_factory=dict)

    def check(self, request: DataRequest) -> None:
        """Check that the folder has the files that it must have. Raises DataError, ConfigError."""
        if request.source is DataSource.full:
            self.listing(request)

    def stamp(self, request: DataRequest) -> object:
        """Return the files with their sizes and times, and the seed if it decides which files are for testing."""
        found = self.listing(request)
        return str(found.folder), found.train, found.test, None if found.test else request.validation_seed

    def locate(self, request: DataRequest) -> tuple[Path, str]:
        """Return the folder, and in words where it is. Raises DataError."""
        return own_folder(self.task, request, f"train/CLASS/*{self.suffixes[0]}"), f"data_dir {request.data_dir}"

    def listing(self, request: DataRequest) -> Listing:
        """Return the files of the folder. Raises DataError if they are not as they must be."""
        folder, _ = self.locate(request)
        train, ignored = self._split(folder, "train")
        if not train:
            raise DataError(
                f"data_dir={request.data_dir} must have folders of classes with {self.what} in train, as in "
                f"train/CLASS/*{self.suffixes[0]}, it has none; types that are read: {', '.join(self.suffixes)}"
            )
        for value, files in train.items():
            if not files:
                raise DataError(
                    f"{folder / 'train' / value}: a class needs at least one training example, this folder has no "
                    f"{self.what} ({', '.join(self.suffixes)}); add some, or remove the folder"
                )
        classes = Classes.of(train, str(folder / "train"))
        test, ignored_too = self._split(folder, "test") if (folder / "test").exists() else ({}, ())
        test = {value: files for value, files in test.items() if files}
        if not test and (folder / "test").exists():
            raise DataError(
                f"{folder / 'test'}: must have {self.what} in folders of their classes, it has none; "
                "add some, or remove the folder to hold out a share of train (task.test_share)"
            )
        for value in test:
            classes.labels([value], str(folder / "test" / value))
        found = Listing(
            folder,
            classes,
            train=tuple(file for files in train.values() for file in files),
            test=tuple(file for files in test.values() for file in files),
            ignored=(*ignored, *ignored_too),
        )
        for suffix, package in self.packages.items():
            if example := next((file for file in found.files if file.name.lower().endswith(suffix)), None):
                require(package, f"reading {example.name}")
        return found

    def _split(self, folder: Path, split: str) -> tuple[dict[str, list[File]], tuple[str, ...]]:
        """Return the files of each class of a split, and the names of those that are ignored."""
        root = os.path.realpath(folder)
        found: dict[str, list[File]] = {}
        ignored: list[str] = []
        if not (folder / split).is_dir():
            raise DataError(
                f"{folder} must have the folder {split} with a folder for each class, there is none; "
                f"put the files into {split}/CLASS"
            )
        _check_inside(folder / split, root)
        for entry in _entries(folder / split, root):
            if entry.is_dir() and not _hidden(entry.name):
                found[entry.name] = []
                for name, stat in _walked(Path(entry.path), root):
                    shown = f"{split}/{entry.name}/{name}"
                    if stat is not None and Path(name).suffix.lower() in self.suffixes:
                        found[entry.name].append(File(shown, entry.name, stat.st_size, stat.st_mtime_ns))
                    else:
                        ignored.append(shown)
            else:
                ignored.append(f"{split}/{entry.name}")
        return found, tuple(ignored)


IMAGES = ClassFolders("images", "images", (".png", ".jpg", ".jpeg", ".bmp", ".webp"))
AUDIO = ClassFolders("audio", "sounds", (".wav", ".flac"), {".flac": "soundfile"})


def own_folder(task: str, request: DataRequest, needed: str) -> Path:
    """Return the user's folder. Raises DataError if none is given, or there is none."""
    if request.data_dir is None:
        raise DataError(f"task={task} reads your own files; give their folder, with {needed}, as data_dir=FOLDER")
    folder = Path(request.data_dir).expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"data_dir={request.data_dir} must be a folder with {needed}, it is none; correct the path")
    return folder


def check_inside(path: Path, folder: Path) -> None:
    """Raise DataError if a path in `folder` is a link that leads out of it."""
    _check_inside(path, os.path.realpath(folder))


def ignored_text(ignored: tuple[str, ...]) -> str:
    """Return the sentence that says which files are ignored."""
    names = ", ".join(ignored[:SHOWN]) + (", ..." if len(ignored) > SHOWN else "")
    which = "file, hidden or of another type" if len(ignored) == 1 else "files, hidden or of other types"
    return f"ignored {len(ignored):,} {which}: {names}"


def _walked(folder: Path, root: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield the files of a folder and of the folders in it, sorted, with their sizes and times; None if hidden."""
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder}: this link leads to a folder that contains it; remove it")
    for entry in _entries(folder, root):
        if _hidden(entry.name):
            yield entry.name, None
        elif entry.is_dir():
            for name, stat in _walked(Path(entry.path), root, (*above, real)):
                yield f"{entry.name}/{name}", stat
        else:
            try:
                yield entry.name, entry.stat()
            except OSError as error:
                raise DataError(f"{entry.path}: cannot be read ({error.strerror}); correct or remove it") from error


def _entries(folder: Path, root: str) -> list[os.DirEntry[str]]:
    """Return what a folder has, sorted by name. Raises DataError for a link that leads out of `root`."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); correct its permissions") from error
    for entry in entries:
        if not entry.name.isprintable():  # it stands in results and stored networks
            raise DataError(f"{folder}: names of files must be printable text, got {entry.name!r}; rename it")
        if entry.is_symlink():
            _check_inside(Path(entry.path), root)
    return entries


def _check_inside(path: Path, root: str) -> None:
    real = os.path.realpath(path)
    if os.path.commonpath([root, real]) != root:
        raise DataError(
            f"{path}: a link must lead to a place in the folder of the data set, this one leads to {real}; "
            "copy the files into the folder"
        )


def _hidden(name: str) -> bool:
    return name.startswith(".")

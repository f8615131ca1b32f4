"""Tables of the user, a file for each split: CSV, TSV, JSON lines or Parquet. Does not import torch.

    FOLDER/train.csv    with a column of sentences and one of labels
    FOLDER/test.csv     optional, with the same columns; it may be of another type

A first line names the columns of CSV and TSV. Every value is read as text: `null`, `nan` and numbers are words like
others. In a TSV file quotes are ordinary characters, as in the files of GLUE. The package datasets reads all but JSON
lines: it would infer types there, and take the word null for a missing value.
"""

from __future__ import annotations

import csv
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantexp.config import DataRequest, DataSource
from quantexp.system.cache import cache_folder
from quantexp.system.errors import DataError
from quantexp.tasks.listing import check_inside, own_folder

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
NEEDED = "train.csv, .tsv, .jsonl or .parquet"


@dataclass(frozen=True)
class Tables:
    """The source of a task whose examples are the rows of tables, with the names of both columns and their settings."""

    text: str
    label: str

    def check(self, request: DataRequest) -> None:
        """Check that there are tables with these columns. Raises DataError."""
        if request.source is not DataSource.full:
            return
        for path in self.files(request).values():
            having = _columns(path)
            for setting, name in (("task.text", self.text), ("task.label", self.label)):
                if name not in having:
                    listed = ", ".join(having) or "none"
                    raise DataError(
                        f"{path}: must have the column {setting}={name}, it has the columns {listed}; "
                        f"name one of them, as in {setting}={next(iter(having), 'COLUMN')}"
                    )

    def stamp(self, request: DataRequest) -> object:
        """Return the files with their sizes and times, and the seed if it decides which rows are for testing."""
        files = self.files(request)
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files.values()]
        return tuple(stats), None if "test" in files else request.validation_seed

    def locate(self, request: DataRequest) -> tuple[Path, str]:
        """Return the folder, and in words where it is. Raises DataError."""
        return own_folder("text", request, NEEDED), f"data_dir {request.data_dir}"

    def files(self, request: DataRequest) -> dict[str, Path]:
        """Return the file of each split; `test` may be missing. Raises DataError."""
        folder, _ = self.locate(request)
        found = {}
        for split in ("train", "test"):
            paths = [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
            if len(paths) > 1:
                raise DataError(f"{folder}: must have one file for {split}, it has {_named(paths)}; remove the others")
            for path in paths:
                check_inside(path, folder)
                found[split] = path
        if "train" not in found:
            having = _named(sorted(folder.iterdir())[:5]) or "no files"
            raise DataError(f"data_dir={request.data_dir} must have {NEEDED}, it has {having}; rename or add the file")
        return found

    def rows(self, path: Path, cache_dir: str | None) -> tuple[list[str], list[str]]:
        """Return the sentences and their labels, both as text. Raises DataError, which names the file and the row."""
        reader = _json_lines if path.suffix == ".jsonl" else _with_datasets
        sentences, labels = reader(path, self.text, self.label, cache_dir)
        for number, (sentence, label) in enumerate(zip(sentences, labels, strict=True), 1):
            for name, value in ((self.text, sentence), (self.label, label)):
                if value is None or (name == self.label and not str(value).strip()):
                    raise DataError(f"{path}: row {number} must have a value in the column {name}, it is empty; add it")
        texts = [_text(sentence) for sentence in sentences]
        if not any(texts):
            raise DataError(f"{path}: the column task.text={self.text} is empty in all rows; add sentences")
        return texts, [_text(label) for label in labels]


def _columns(path: Path) -> list[str]:
    """Return the names of the columns, read from the beginning of a file. Raises DataError if there are no rows."""
    with _explained(path):
        if path.suffix == ".parquet":
            import pyarrow.parquet

            described = pyarrow.parquet.read_metadata(path)
            names, rows = list(described.schema.to_arrow_schema().names), described.num_rows
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = (line for line in file if line.strip())
                if path.suffix == ".jsonl":
                    first = next(lines, None)
                    names, rows = list(_object(first or "{}")), first is not None
                else:
                    table = csv.reader(lines, **_form(path))
                    names, row = next(table, []), next(table, [])
                    rows = bool(row)
                    if len(row) > len(names):  # pandas would take the first cells for names of rows
                        raise ValueError(f"row 1 has {len(row)} cells, the header {len(names)}")
    if not rows:
        raise DataError(f"{path}: contains no rows; add examples")
    return names


def _json_lines(path: Path, text: str, label: str, cache_dir: str | None) -> tuple[list[Any], list[Any]]:
    sentences, labels = [], []
    with _explained(path), path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = _object(line)
                except ValueError as error:
                    raise DataError(f"{path}: line {number} must be a JSON object ({error}); correct it") from error
                sentences.append(row.get(text))
                labels.append(row.get(label))
    return sentences, labels


def _with_datasets(path: Path, text: str, label: str, cache_dir: str | None) -> tuple[list[Any], list[Any]]:
    """Read both columns with the package datasets, which needs a folder for its own files meanwhile."""
    import datasets

    settings: dict[str, Any] = {"columns": [text, label]}
    if path.suffix != ".parquet":
        features = datasets.Features({name: datasets.Value("string") for name in _columns(path)})
        settings = {"features": features, "encoding": "utf-8-sig", **_pandas(path)}
    cache = cache_folder(cache_dir, "data")
    with tempfile.TemporaryDirectory(prefix="tables-", dir=cache) as scratch, _explained(path), _silent(datasets):
        table = datasets.load_dataset(
            "parquet" if path.suffix == ".parquet" else "csv",
            data_files={"train": str(path)},
            split="train",
            cache_dir=scratch,
            keep_in_memory=True,
            **settings,
        )
        sentences, labels = list(table[text]), list(table[label])
        if isinstance(table.features[label], datasets.ClassLabel):
            names = table.features[label].names
            labels = [names[number] if number is not None and number >= 0 else None for number in labels]
    return sentences, labels


def _form(path: Path) -> dict[str, Any]:
    """Return how the csv module reads a file."""
    return {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}


def _pandas(path: Path) -> dict[str, Any]:
    """Return how pandas, in datasets, reads a file: every value as it stands there."""
    return {**_form(path), "keep_default_na": False, "na_filter": False}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what a reader raises into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # the errors of the readers are not documented
        cause = error.__cause__ or error
        reason = " ".join(f"{getattr(cause, 'strerror', None) or cause}".split())[:200]
        if isinstance(cause, UnicodeDecodeError):
            reason = f"it is not UTF-8: {cause}"
        raise DataError(f"{path}: cannot be read as {path.suffix[1:].upper()} ({reason}); correct the file") from error


@contextmanager
def _silent(datasets: Any) -> Iterator[None]:
    """Keep the package datasets from printing: progress, and errors that are raised anyway."""
    bars, log = datasets.are_progress_bars_disabled(), logging.getLogger("datasets")
    level = log.level
    datasets.disable_progress_bars()
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _object(line: str) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}")
    return row


def _text(value: Any) -> str:
    """Return a value as text that can be written as UTF-8; integers that are stored as floats without their .0."""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.strip().encode("utf-8", "replace").decode()


def _named(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)

"""Sentences of the user in a table: as bags of words or as tokens, as for SST-2.

The vocabulary is that of the sentences that are trained on; those held out for validation or testing do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from quantexp.config import DataRequest, Kind, Text
from quantexp.tasks import words
from quantexp.tasks.classes import Classes
from quantexp.tasks.data import Split, TaskData
from quantexp.tasks.own_files import divided, task_data
from quantexp.tasks.tables import Tables


def load(task: Text, kind: Kind, request: DataRequest) -> TaskData:
    """Read the tables. Raises DataError if one is missing or damaged."""
    source = Tables(task.text, task.label)
    source.check(request)
    files = source.files(request)
    read = {split: source.rows(path, request.cache_dir) for split, path in files.items()}
    classes = Classes.of(read["train"][1], str(files["train"]))
    labels = [label for split, (_, values) in read.items() for label in classes.labels(values, str(files[split]))]
    sentences = [sentence for found, _ in read.values() for sentence in found]
    training = len(read["train"][0])
    division = divided(training, len(sentences) - training, task.test_share, request)
    preparation = words.learned(task, kind, [sentences[row] for row in division.train.tolist()])

    def make(rows: Tensor) -> Split:
        chosen = rows.tolist()
        return words.split(task, kind, [sentences[row] for row in chosen], [labels[row] for row in chosen], preparation)

    return task_data(
        division,
        make,
        torch.tensor(labels),
        classes,
        request,
        preparation=preparation,
        fingerprint=words.fingerprint(_digest(read), preparation),
    )


inputs, specs, encode = words.expected, words.specs, words.encode


def classes(task: Text) -> int:
    """Return the number of classes that is set for data=synthetic."""
    return task.classes


def _digest(read: dict[str, tuple[list[str], list[str]]]) -> str:
    """Return a digest of the sentences and labels, the same for each type of file."""
    sha = hashlib.sha256()
    for split, columns in read.items():
        sha.update(f"{split}\0{len(columns[0])}\0".encode())
        for column in columns:
            _add(sha, column)
    return sha.hexdigest()


def _add(sha: hashlib._Hash, values: Sequence[str]) -> None:
    for value in values:
        content = value.encode()
        sha.update(len(content).to_bytes(8, "little") + content)

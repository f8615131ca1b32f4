"""What a task hands over: its splits, each with its name, and a fingerprint of what was read.

A split gives batches of dense float inputs by index. The inputs of MNIST lie in memory as they are
used; those of SST-2 stay sparse until a batch is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quantexp.config import CalibrationSplit, DataRequest, EvaluationSplit
from quantexp.system.errors import ConfigError
from quantexp.system.host import give_way


@dataclass(frozen=True)
class Split:
    """Labelled examples. `labels` has shape (examples,), int64, values in [0, classes)."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the inputs of `rows` as float32, shape (len(rows), features)."""
        raise NotImplementedError

    def take(self, rows: Tensor) -> Split:
        """Return the split that holds `rows` only, in that order."""
        raise NotImplementedError

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, labels) in batches of `size`, the last one smaller, in the given order of rows.

        Between two batches the process stands still while another one on this host measures.
        """
        order = torch.arange(len(self)) if order is None else order
        for rows in torch.split(order, size):
            give_way()
            yield self.inputs(rows), self.labels[rows]


@dataclass(frozen=True)
class Dense(Split):
    """Inputs that lie in memory as they are used: `values` has shape (examples, features), float32."""

    values: Tensor

    def inputs(self, rows: Tensor) -> Tensor:
        return self.values[rows]

    def take(self, rows: Tensor) -> Dense:
        return Dense(self.labels[rows], self.values[rows])


@dataclass(frozen=True)
class BagOfWords(Split):
    """Sentences as the vocabulary indices of their words; a batch of counts is made when asked for.

    Sentence i is `words[starts[i] : starts[i + 1]]`; words outside the vocabulary are left out.
    """

    words: Tensor  # (words of all sentences,), int64
    starts: Tensor  # (examples + 1,), int64
    vocabulary: int

    def inputs(self, rows: Tensor) -> Tensor:
        lengths = self.starts[rows + 1] - self.starts[rows]
        line = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        first = torch.repeat_interleave(self.starts[rows] - (lengths.cumsum(0) - lengths), lengths)
        cell = line * self.vocabulary + self.words[first + torch.arange(len(line))]
        counts = torch.zeros(len(rows) * self.vocabulary)
        return counts.scatter_add_(0, cell, torch.ones(len(cell))).view(len(rows), self.vocabulary)

    def take(self, rows: Tensor) -> BagOfWords:
        pieces = [self.words[self.starts[row] : self.starts[row + 1]] for row in rows.tolist()]
        starts = torch.tensor([0, *(len(piece) for piece in pieces)]).cumsum(0)
        return BagOfWords(self.labels[rows], torch.cat(pieces), starts, self.vocabulary)


@dataclass(frozen=True)
class TaskData:
    """The splits of a task. `calibration` is drawn from `train` unless the run says otherwise.

    `validation` is None unless examples are held out of `train` for it; `evaluation` says on which split accuracy
    is measured.

    `features` and `classes` are the sizes of the network's input and output; `fingerprint` is a
    SHA-256 over the bytes that were read; `origin` says in words where they came from. `vocabulary`
    holds the words that are counted, in the order of the features; empty where a task counts none.
    """

    train: Split
    calibration: Split
    test: Split
    features: int
    classes: int
    fingerprint: str
    origin: str
    vocabulary: tuple[str, ...] = ()
    validation: Split | None = None
    evaluation: EvaluationSplit = EvaluationSplit.test

    @property
    def evaluated(self) -> Split:
        """The split that accuracy is measured on."""
        if self.evaluation is EvaluationSplit.test:
            return self.test
        assert self.validation is not None  # Experiment has seen to it
        return self.validation

    @property
    def example(self) -> Tensor:
        """Two inputs, for whatever must see the shape of a batch."""
        return self.train.inputs(torch.arange(2))


def held_out(examples: int, request: DataRequest) -> tuple[Tensor, Tensor]:
    """Return the rows of the training examples that are left for training, and those held out for validation.

    Which they are is drawn, seeded; both stand in the order of the file.

    Raises:
        ConfigError: If the share that is requested is not a whole example.
    """
    count = round(request.validation * examples)
    if request.validation and not count:
        raise ConfigError(
            f"validation must hold out at least one of {examples:,} training examples, got {request.validation:g}; "
            "raise it, or leave it at 0"
        )
    rows = torch.randperm(examples, generator=torch.Generator().manual_seed(request.validation_seed))
    return rows[count:].sort().values, rows[:count].sort().values


def calibration_split(train: Split, test: Split, request: DataRequest) -> Split:
    """Draw the calibration examples, seeded. Raises ConfigError if more are requested than there are."""
    pool = test if request.calibration is CalibrationSplit.test else train
    count = request.calibration_examples
    if count > len(pool):
        raise ConfigError(
            f"quant.calibration_examples must be at most {len(pool)}, the size of the {request.calibration} split, "
            f"got {count}"
        )
    rows = torch.randperm(len(pool), generator=torch.Generator().manual_seed(request.seed))[:count]
    return pool.take(rows)


def digest(parts: Mapping[str, bytes]) -> str:
    """Return a SHA-256 over named byte strings, in hex."""
    sha = hashlib.sha256()
    for name, content in sorted(parts.items()):
        sha.update(f"{name}\0{len(content)}\0".encode())
        sha.update(content)
    return sha.hexdigest()

"""What a task hands over: its splits, each with its name, what it is, and a fingerprint of what was read.

A split gives batches by index and keeps its examples as small as they come: images as uint8, sentences as
the indices of their words. What a network takes is made batch by batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quantexp.config import CalibrationSplit, DataRequest, EvaluationSplit
from quantexp.results import InputSpec
from quantexp.system.errors import ConfigError
from quantexp.system.host import give_way
from quantexp.tasks.inputs import Batch
from quantexp.tasks.objectives import Objective


@dataclass(frozen=True)
class Split:
    """Examples. `labels` has shape (examples,), int64; None where there are none."""

    labels: Tensor | None

    def __len__(self) -> int:
        raise NotImplementedError

    def inputs(self, rows: Tensor) -> Batch:
        """Return the batch of the examples `rows`."""
        raise NotImplementedError

    def take(self, rows: Tensor) -> Split:
        """Return the split that holds `rows` only, in that order."""
        raise NotImplementedError

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Batch, Tensor]]:
        """Yield (batch, rows) in batches of `size`, the last one smaller, in the given order of rows.

        Between two batches the process stands still while another one on this host measures.
        """
        order = torch.arange(len(self)) if order is None else order
        for rows in torch.split(order, size):
            give_way()
            yield self.inputs(rows), rows

    def first(self, size: int, skipping: int = 0) -> Batch:
        """Return a batch of `size` examples from number `skipping` on, starting again at 0 where they run out."""
        return self.inputs((torch.arange(size) + skipping) % len(self))


@dataclass(frozen=True)
class Tensors(Split):
    """Inputs that lie in memory as they are used."""

    values: Batch

    def __len__(self) -> int:
        return len(self.values[0])

    def inputs(self, rows: Tensor) -> Batch:
        return tuple(tensor[rows] for tensor in self.values)

    def take(self, rows: Tensor) -> Tensors:
        return Tensors(_taken(self.labels, rows), self.inputs(rows))


@dataclass(frozen=True)
class Images(Split):
    """Images as uint8, normalised when a batch is made: (pixel / 255 - mean) / std, float32.

    `pixels` has shape (examples, channels, height, width). Batches have that shape or, where `flat`, one value a pixel
    in a row, (examples, channels · height · width).
    """

    pixels: Tensor
    mean: float
    std: float
    flat: bool

    def __len__(self) -> int:
        return len(self.pixels)

    def inputs(self, rows: Tensor) -> Batch:
        images = self.pixels[rows].float().div_(255).sub_(self.mean).div_(self.std)
        return (images.flatten(1) if self.flat else images,)

    def take(self, rows: Tensor) -> Images:
        return Images(_taken(self.labels, rows), self.pixels[rows], self.mean, self.std, self.flat)


@dataclass(frozen=True)
class BagOfWords(Split):
    """Sentences as the vocabulary indices of their words; a batch of counts is made when asked for.

    Sentence i is `words[starts[i] : starts[i + 1]]`; words outside the vocabulary are left out.
    """

    words: Tensor  # (words of all sentences,), int64
    starts: Tensor  # (examples + 1,), int64
    vocabulary: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def inputs(self, rows: Tensor) -> Batch:
        lengths = self.starts[rows + 1] - self.starts[rows]
        line = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        first = torch.repeat_interleave(self.starts[rows] - (lengths.cumsum(0) - lengths), lengths)
        cell = line * self.vocabulary + self.words[first + torch.arange(len(line))]
        counts = torch.zeros(len(rows) * self.vocabulary)
        return (counts.scatter_add_(0, cell, torch.ones(len(cell))).view(len(rows), self.vocabulary),)

    def take(self, rows: Tensor) -> BagOfWords:
        pieces = [self.words[self.starts[row] : self.starts[row + 1]] for row in rows.tolist()]
        starts = torch.tensor([0, *(len(piece) for piece in pieces)]).cumsum(0)
        return BagOfWords(_taken(self.labels, rows), torch.cat(pieces), starts, self.vocabulary)


@dataclass(frozen=True)
class TaskData:
    """The splits of a task. `calibration` is drawn from `train` unless the run says otherwise.

    `validation` is None unless examples are held out of `train` for it; `evaluation` says on which split quality is
    measured.

    `inputs` describes what the network takes, `classes` is the width of its output; `fingerprint` is a SHA-256 over
    what was read; `origin` says in words where it came from. `vocabulary` holds the words that are counted, in the
    order of the features; empty where a task counts none.
    """

    train: Split
    calibration: Split
    test: Split
    inputs: tuple[InputSpec, ...]
    classes: int
    objective: Objective
    fingerprint: str
    origin: str
    vocabulary: tuple[str, ...] = ()
    validation: Split | None = None
    evaluation: EvaluationSplit = EvaluationSplit.test

    @property
    def evaluated(self) -> Split:
        """The split that quality is measured on."""
        if self.evaluation is EvaluationSplit.test:
            return self.test
        if self.validation is None:
            raise ConfigError("evaluation=validation needs examples that are held out of train, none are")
        return self.validation

    @property
    def example(self) -> Batch:
        """Two examples, for whatever must see the shape of a batch."""
        return self.train.first(2)


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
    """Draw the calibration examples, seeded.

    Raises:
        ConfigError: If the method calibrates on more examples than there are.
    """
    pool = test if request.calibration is CalibrationSplit.test else train
    count = request.calibration_examples
    if request.calibrates and count > len(pool):
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


def _taken(labels: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if labels is None else labels[rows]

"""The data of a task: its splits, with a description of the inputs and a fingerprint of the content.

A split makes batches from row indices and keeps its examples in their smallest form: images as uint8, sentences as
numbers of words. The inputs of the network are computed batch by batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from quantexp.config import CalibrationSplit, DataRequest, EvaluationSplit
from quantexp.results import Finding, InputSpec
from quantexp.system.errors import ConfigError
from quantexp.system.host import give_way
from quantexp.tasks.inputs import Batch
from quantexp.tasks.objectives import Objective
from quantexp.tasks.preparation import Preparation
from quantexp.tasks.sparse import mostly_zero, sparse


@dataclass(frozen=True)
class Split:
    """Examples of a task. `labels` has shape (examples,), int64; None where the examples have no labels."""

    labels: Tensor | None

    def __len__(self) -> int:
        raise NotImplementedError

    def inputs(self, rows: Tensor) -> Batch:
        """Return a batch of the examples in `rows`."""
        raise NotImplementedError

    def take(self, rows: Tensor) -> Split:
        """Return a split of only the examples in `rows`, in that order."""
        raise NotImplementedError

    def training_inputs(self, rows: Tensor) -> Batch:
        """Return a batch as a network is trained on it, such as with augmented images; by default as it is."""
        return self.inputs(rows)

    def batches(
        self, size: int | list[int], order: Tensor | None = None, inputs: Callable[[Tensor], Batch] | None = None
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Yield (batch, rows) in batches of `size`, in the order of rows if given; the last batch may be smaller.

        `size` may also be a list with the size of each batch; `inputs` makes a batch from rows, by default `inputs()`.
        Between two batches the process pauses while another process on this host measures latency.
        """
        order = torch.arange(len(self)) if order is None else order
        for rows in torch.split(order, size):
            give_way()
            yield (inputs or self.inputs)(rows), rows

    def shortened(self, batch: Batch) -> Batch:
        """Return a batch without what is padding in all its examples; by default as it is."""
        return batch

    def first(self, size: int, skipping: int = 0) -> Batch:
        """Return `size` examples, from number `skipping` on; after the last example it continues at 0."""
        return self.inputs((torch.arange(size) + skipping) % len(self))

    def some(self, most: int) -> Batch:
        """Return the first `most` examples, or all if there are fewer."""
        return self.first(min(most, len(self)))


@dataclass(frozen=True)
class Tensors(Split):
    """Examples that are kept in memory in the form in which the network takes them."""

    values: Batch

    def __len__(self) -> int:
        return len(self.values[0])

    def inputs(self, rows: Tensor) -> Batch:
        return tuple(tensor[rows] for tensor in self.values)

    def training_inputs(self, rows: Tensor) -> Batch:
        batch = self.inputs(rows)
        return tuple(sparse(one) if few else one for one, few in zip(batch, self._mostly_zero, strict=True))

    @cached_property
    def _mostly_zero(self) -> tuple[bool, ...]:
        return tuple(mostly_zero(tensor) for tensor in self.values)

    def take(self, rows: Tensor) -> Tensors:
        return Tensors(taken_rows(self.labels, rows), self.inputs(rows))


@dataclass(frozen=True)
class Images(Split):
    """Images as uint8, which are normalised when a batch is made: (pixel / 255 - mean) / std, float32.

    `pixels` has shape (examples, channels, height, width). Batches have that shape or, if `flat`, the
    shape (examples, channels · height · width). With `side`, they are first resized to squares of that side in pixels
    by bilinear interpolation; with `copies`, the channels are repeated as often.
    """

    pixels: Tensor
    mean: float
    std: float
    flat: bool
    side: int | None = None
    copies: int = 1

    def __len__(self) -> int:
        return len(self.pixels)

    def inputs(self, rows: Tensor) -> Batch:
        images = self.pixels[rows].float()
        if self.side is not None:
            images = functional.interpolate(images, size=(self.side, self.side), mode="bilinear", align_corners=False)
        images = images.div_(255).sub_(self.mean).div_(self.std)
        images = images.repeat(1, self.copies, 1, 1) if self.copies > 1 else images
        return (images.flatten(1) if self.flat else images,)

    def take(self, rows: Tensor) -> Images:
        return replace(self, labels=taken_rows(self.labels, rows), pixels=self.pixels[rows])


@dataclass(frozen=True)
class TaskData:
    """The splits of a task. `calibration` is drawn from `train` unless the run draws it from `test`.

    `validation` is None unless examples are held out of `train`; `evaluation` names the split on which quality is
    measured.

    `inputs` describes the inputs of the network, `classes` is the width of its output. `fingerprint` is a SHA-256 of
    the content that was read, `origin` says in words where it came from. `vocabulary`, `tokenizer` and `class_names`
    are those of a Preparation. `findings` says what of the data makes results doubtful.
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
    tokenizer: str = ""
    class_names: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    validation: Split | None = None
    evaluation: EvaluationSplit = EvaluationSplit.test

    @property
    def evaluated(self) -> Split:
        """The split that quality is measured on."""
        if self.evaluation is EvaluationSplit.test:
            return self.test
        if self.validation is None:
            raise ConfigError(
                "evaluation=validation needs examples that are held out of train, there are none; set validation"
            )
        return self.validation

    @property
    def preparation(self) -> Preparation:
        """What prepares raw inputs, besides the settings of the task."""
        return Preparation(self.inputs, self.vocabulary, self.tokenizer, self.class_names)

    @property
    def example(self) -> Batch:
        """A batch of two examples, for code that needs the shape of a batch."""
        return self.train.first(2)


def held_out(examples: int, request: DataRequest) -> tuple[Tensor, Tensor]:
    """Return the rows to train on, and those that are held out for validation.

    The rows are drawn at random with a seed; both results are in the order of the file. With the same seed, a smaller
    number of training examples is a part of a larger one, and the same rows are held out.

    Raises:
        ConfigError: If the requested share is less than one example, or more training examples are requested than
            remain.
    """
    count = round(request.validation * examples)
    if request.validation and not count:
        raise ConfigError(
            f"validation must hold out at least one of {examples:,} training examples, got {request.validation:g}; "
            "raise it, or leave it at 0"
        )
    rows = torch.randperm(examples, generator=torch.Generator().manual_seed(request.validation_seed))
    kept = rows[count:]
    if request.examples is not None and request.examples > len(kept):
        what = " that are not held out" if count else ""
        raise ConfigError(
            f"train.examples must be at most {len(kept)}, the number of training examples{what}, "
            f"got {request.examples}; lower it, or use all with train.examples=null"
        )
    return kept[: request.examples].sort().values, rows[:count].sort().values


def calibration_split(train: Split, test: Split, request: DataRequest) -> Split:
    """Draw the calibration examples at random, with a seed.

    Raises:
        ConfigError: If the method calibrates on more examples than there are.
    """
    pool = test if request.calibration is CalibrationSplit.test else train
    count = request.calibration_examples
    if request.calibrates and count > len(pool):
        raise ConfigError(
            f"quant.calibration_examples must be at most {len(pool)}, the size of the {request.calibration} split, "
            f"got {count}; set quant.calibration_examples={len(pool)} or less"
        )
    rows = torch.randperm(len(pool), generator=torch.Generator().manual_seed(request.seed))[:count]
    return pool.take(rows)


def evaluated(split: Split, request: DataRequest) -> Split:
    """Draw the examples that quality is measured on, at random with a seed, in the order of the split."""
    count = request.evaluated
    if count is None or count >= len(split):
        return split
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(request.validation_seed))
    return split.take(rows[:count].sort().values)


def digest(parts: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of named byte strings, in hex."""
    sha = hashlib.sha256()
    for name, content in sorted(parts.items()):
        sha.update(f"{name}\0{len(content)}\0".encode())
        sha.update(content)
    return sha.hexdigest()


def taken_rows(labels: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return the labels of these rows."""
    return None if labels is None else labels[rows]

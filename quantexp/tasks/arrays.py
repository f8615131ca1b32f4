"""Arrays of the user: x stays in its own type, and is made float32 batch by batch, times `task.scale`.

What an example of x must look like depends on the kind of input that the network takes:

    features   any shape; it is flattened
    image      (height, width), which becomes one channel, or (channels, height, width)
    sequence   (length, values)
    waveform   (samples,)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantexp.config import Arrays, DataRequest, Kind
from quantexp.results import InputSpec
from quantexp.system.errors import ConfigError, DataError, ModelError
from quantexp.tasks import npz
from quantexp.tasks.classes import Classes
from quantexp.tasks.data import Split, TaskData, taken_rows
from quantexp.tasks.decoded import Store, kept, rows_of
from quantexp.tasks.inputs import Batch
from quantexp.tasks.npz import ArrayFiles
from quantexp.tasks.own_files import divided, log, task_data
from quantexp.tasks.preparation import Preparation

DIMENSIONS = {Kind.image: (2, 3), Kind.sequence: (2,), Kind.waveform: (1,)}  # of an example, by kind
FORMS = {
    Kind.image: "(height, width) or (channels, height, width)",
    Kind.sequence: "(length, values)",
    Kind.waveform: "(samples,)",
}
COLORS = (1, 3, 4)  # channels of an image


@dataclass(frozen=True)
class Values(Split):
    """Examples in their own type; a batch is float32, each value times `scale`, each example of the shape `shape`.

    Example i is `values[rows[i]]`. `values` has the examples of all splits and may be mapped from a file.
    """

    values: NDArray[Any]
    rows: Tensor
    shape: tuple[int, ...]
    scale: float

    def __len__(self) -> int:
        return len(self.rows)

    def inputs(self, rows: Tensor) -> Batch:
        chosen = rows_of(self.values, self.rows[rows])
        return (torch.from_numpy(chosen.astype(np.float32)).mul_(self.scale).reshape(len(rows), *self.shape),)

    def take(self, rows: Tensor) -> Values:
        return replace(self, labels=taken_rows(self.labels, rows), rows=self.rows[rows])


def load(task: Arrays, kind: Kind, request: DataRequest) -> TaskData:
    """Read the arrays. Raises DataError if a file is missing or damaged, or x does not fit the kind of input."""
    source = ArrayFiles()
    files, headers = source.files(request), source.headers(request)
    shape = headers["train"].shape[1:]
    specs = _specs(kind, shape, f"{files['train']}: x")
    if kind is Kind.image and len(shape) == 3 and shape[2] in COLORS and shape[0] not in COLORS:
        log.warning("x has images of %s channels, %sx%s pixels; if channels are last, transpose x", *shape)
    counts = [header.shape[0] for header in headers.values()]
    dtype = np.result_type(*(header.dtype for header in headers.values())).newbyteorder("=")

    def pieces(sha: Any) -> Iterator[NDArray[Any]]:
        for split, path in files.items():
            at = 0
            for piece in npz.rows(path, headers[split]):
                finite = np.isfinite(piece).reshape(len(piece), -1).all(1)
                if not finite.all():
                    raise DataError(
                        f"{path}: x must have finite values, example {at + int(finite.argmin())} has others; correct it"
                    )
                found = np.ascontiguousarray(piece, dtype)
                sha.update(found.data)
                yield found
                at += len(piece)

    folder, _ = source.locate(request)
    store = Store(request.cache_dir, task.memory_mb, "arrays")
    found = kept((sum(counts), *shape), dtype.str, pieces, store, folder, repr(source.stamp(request)))
    read = {split: npz.labels(path) for split, path in files.items()}
    known = Classes.of(read["train"], str(files["train"]))
    labels = [label for split, values in read.items() for label in known.labels(values, str(files[split]))]
    numbers = torch.tensor(labels)
    described = repr((found.digest, counts, shape, dtype.str, read))

    def make(rows: Tensor) -> Values:
        return Values(numbers[rows], found.values, rows, specs[0].measured, task.scale)

    return task_data(
        divided(counts[0], sum(counts[1:]), task.test_share, request),
        make,
        numbers,
        known,
        request,
        preparation=Preparation(specs),
        fingerprint=hashlib.sha256(described.encode()).hexdigest(),
    )


def inputs(task: Arrays, kind: Kind) -> tuple[InputSpec, ...]:
    """Return the only input for `task.shape`. Raises ConfigError if it does not fit the kind."""
    try:
        return _specs(kind, tuple(task.shape or ()), "task.shape")
    except DataError as error:
        raise ConfigError(str(error)) from error


def specs(task: Arrays, kind: Kind, preparation: Preparation) -> tuple[InputSpec, ...]:
    """Return the input for arrays that were read."""
    return preparation.inputs


def classes(task: Arrays) -> int:
    """Return the number of classes that is set for data=synthetic."""
    return task.classes


def encode(task: Arrays, kind: Kind, raw: Any, preparation: Preparation) -> tuple[Batch, bool]:
    """Prepare raw arrays: one example gives a batch of one and True, n of them a batch of n and False.

    Args:
        task: Has the factor of the values.
        kind: The input that the network takes.
        raw: An array, a tensor or nested lists of numbers. It has several examples if each of its first dimension has
            as many values as an example.
        preparation: Has the shape of the input.

    Raises:
        ModelError: If `raw` has another form.
    """
    shape = preparation.inputs[0].measured
    shown = "x".join(map(str, shape))
    rule = f"raw inputs of arrays must be an example of {shown} numbers, or a stack of at least one"
    try:
        values = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{rule}; got a {type(raw).__name__} that is not an array ({error})") from error
    if values.dtype.kind not in npz.NUMBERS:
        raise ModelError(f"{rule}; got a {type(raw).__name__} of {values.dtype}; convert it to numbers")
    several = values.ndim > 1 and len(values) > 0 and _fits(values.shape[1:], shape, kind)
    if not several and not _fits(values.shape, shape, kind):
        raise ModelError(f"{rule}; got shape {values.shape}; reshape it")
    stack = values if several else values[None]
    split = Values(None, stack, torch.arange(len(stack)), shape, task.scale)
    return split.inputs(split.rows), not several


def _fits(shape: Sequence[int], expected: tuple[int, ...], kind: Kind) -> bool:
    """Return whether an example of that shape is one that the network takes."""
    if kind is Kind.features:
        return math.prod(shape) == expected[0]
    return tuple(shape) == expected or (kind is Kind.image and (1, *shape) == expected)


def _specs(kind: Kind, shape: tuple[int, ...], where: str) -> tuple[InputSpec, ...]:
    """Return the input for examples of that shape. Raises DataError, which begins with `where`, if they do not fit."""
    if kind in DIMENSIONS and len(shape) not in DIMENSIONS[kind]:
        raise DataError(
            f"{where} must have examples of the shape {FORMS[kind]} for a network that takes {kind}, got {shape}; "
            "reshape it, or choose another network"
        )
    if kind is Kind.features:
        shape = (math.prod(shape),)
    elif kind is Kind.image and len(shape) == 2:
        shape = (1, *shape)
    return (InputSpec("x", shape),)

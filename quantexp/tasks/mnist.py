"""MNIST: IDX files are read as uint8 images and center-cropped as in the lab; batches are normalised.

For networks that take larger images, batches are enlarged; in memory the pixels stay as they were read.

The sample is scikit-learn's 1,797 real handwritten digits of 8x8 pixels. They are enlarged to 20x20, the size of a
digit in MNIST, and placed in the middle of 28x28, so that they go through the same pipeline.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantexp.config import DataRequest, DataSource, Kind, Mnist
from quantexp.results import InputSpec
from quantexp.system.errors import DataError, ModelError
from quantexp.tasks.data import Images, TaskData, calibration_split, digest, held_out
from quantexp.tasks.files import read_bytes
from quantexp.tasks.inputs import Batch
from quantexp.tasks.objectives.classification import Classification
from quantexp.tasks.preparation import Preparation
from quantexp.tasks.sources import MNIST, MNIST_NAMES, MNIST_RAW

MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to [0, 1]
SIDE = 28
PADDED = 32  # the greatest side that is reached by padding
CLASSES = 10
SAMPLE_TEST = 360  # of the 1,797 digits; the other 1,437 are for training


def load(task: Mnist, kind: Kind, request: DataRequest) -> TaskData:
    """Load MNIST, or its sample. Raises DataError if files are missing, damaged or cannot be downloaded."""
    if request.source is DataSource.sample:
        images, labels, fingerprint = _sample()
        train_images, test_images = images[SAMPLE_TEST:], images[:SAMPLE_TEST]
        train_labels, test_labels = labels[SAMPLE_TEST:], labels[:SAMPLE_TEST]
        origin = "scikit-learn's digits, shipped with it"
    else:
        folder, origin = MNIST.locate(request)
        content = {name: _unzipped(folder, file) for name, file in MNIST_NAMES.items()}
        train_images, train_labels = _pair(folder, content, "train")
        test_images, test_labels = _pair(folder, content, "test")
        fingerprint = digest({name: bytes_ for name, (_, bytes_) in content.items()})
    training_rows, validation_rows = held_out(len(train_labels), request)
    train = _images(task, train_images[training_rows], train_labels[training_rows], kind)
    test = _images(task, test_images, test_labels, kind)
    validation = None
    if len(validation_rows):
        validation = _images(task, train_images[validation_rows], train_labels[validation_rows], kind)
    return TaskData(
        train,
        calibration_split(train, test, request),
        test,
        inputs=inputs(task, kind),
        classes=CLASSES,
        objective=Classification(CLASSES),
        fingerprint=fingerprint,
        origin=origin,
        validation=validation,
    )


def inputs(task: Mnist, kind: Kind) -> tuple[InputSpec, ...]:
    """Return the only input: an image, or its flat pixels; normalised, float32."""
    channels, side = _channels(task), _side(task)
    low, high = (0 - MEAN) / STD, (1 - MEAN) / STD
    shape = (channels * side * side,) if kind is Kind.features else (channels, side, side)
    return (InputSpec("pixels", shape, "float32", low, high),)


def classes(task: Mnist) -> int:
    """Return 10, one class for each digit."""
    return CLASSES


def crop(images: Tensor, side: int) -> Tensor:
    """Return the centers of uint8 images (n, 28, 28) as (n, 1, side, side).

    A crop larger than the image is padded with black. Odd margins are divided as in torchvision's CenterCrop.
    """
    if side > SIDE:
        margin = side - SIDE
        before, after = margin // 2, margin - margin // 2
        images = torch.nn.functional.pad(images, (before, after, before, after))
    edge = round((images.shape[-1] - side) / 2)
    return images[:, None, edge : edge + side, edge : edge + side].contiguous()


def encode(task: Mnist, kind: Kind, raw: Any, preparation: Preparation) -> tuple[Batch, bool]:
    """Prepare raw images: (28, 28) gives a batch of one and True, (n, 28, 28) a batch of n and False.

    Args:
        task: Has the size of the images and their channels.
        kind: The input that the network takes.
        raw: An array, a tensor or nested lists of integers from 0 to 255, bright digits on a dark background.
        preparation: Not used.

    Raises:
        ModelError: If `raw` has another form.
    """
    rule = f"raw inputs of mnist must be an image of {SIDE}x{SIDE} integers from 0 to 255, or a stack of at least one"
    try:
        pixels = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{rule}; got a {type(raw).__name__} that is not an array ({error})") from error
    if pixels.dtype.kind not in "uif":
        raise ModelError(f"{rule}; got a {type(raw).__name__} of {pixels.dtype}; convert it to uint8")
    if pixels.ndim not in (2, 3) or pixels.shape[-2:] != (SIDE, SIDE) or not len(pixels):
        raise ModelError(f"{rule}; got shape {pixels.shape}; reshape it to ({SIDE}, {SIDE}) or (n, {SIDE}, {SIDE})")
    wrong = pixels[~((pixels >= 0) & (pixels <= 255) & (pixels == np.round(pixels)))]
    if wrong.size:
        raise ModelError(f"{rule}; got the value {wrong[0]}; scale and round your values to 0 .. 255")
    images = torch.from_numpy(pixels.astype(np.uint8)).view(-1, SIDE, SIDE)
    prepared = _images(task, images, None, kind).inputs(torch.arange(len(images)))
    return prepared, pixels.ndim == 2


def parse_idx(content: bytes, path: Path) -> Tensor:
    """Return the tensor in an IDX file of unsigned bytes. Raises DataError, which names `path` and the error.

    The format: two zero bytes, type 0x08, the number of dimensions, each dimension as a big-endian
    32-bit integer, then the values.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] not in (1, 3):
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ') or 'nothing'}, "
            "expected 00 00 08 01 or 00 00 08 03; download it again"
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DataError(f"{path}: truncated in its header, {len(content)} bytes; download it again")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise DataError(
            f"{path}: must have {expected:,} bytes according to its header, has {len(content):,}; download it again"
        )
    if len(content) == header:
        return torch.empty(shape, dtype=torch.uint8)  # frombuffer does not accept an empty buffer
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)


def _side(task: Mnist) -> int:
    return task.size or task.usual_size


def _channels(task: Mnist) -> int:
    return task.channels or task.usual_channels


def _images(task: Mnist, images: Tensor, labels: Tensor | None, kind: Kind) -> Images:
    """Return digits as `task` wants them: cropped or padded in memory, enlarged batch by batch."""
    side = _side(task)
    enlarged = side > PADDED
    pixels = images[:, None] if enlarged else crop(images, side)
    flat = kind is Kind.features
    return Images(labels, pixels, MEAN, STD, flat, side=side if enlarged else None, copies=_channels(task))


def _pair(folder: Path, content: dict[str, tuple[Path, bytes]], split: str) -> tuple[Tensor, Tensor]:
    images_path, images_bytes = content[f"{split}_images"]
    labels_path, labels_bytes = content[f"{split}_labels"]
    images, labels = parse_idx(images_bytes, images_path), parse_idx(labels_bytes, labels_path)
    if images.dim() != 3 or images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images_path}: expected images of {SIDE}x{SIDE}, found shape {tuple(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_path}: has {labels.numel():,} labels for {len(images):,} images in {images_path.name}"
        )
    if len(labels) == 0:
        raise DataError(f"{images_path}: contains no images")
    if int(labels.max()) >= CLASSES:
        raise DataError(f"{labels_path}: labels must be 0 to 9, found {int(labels.max())}")
    return images, labels.long()


def _unzipped(folder: Path, name: str) -> tuple[Path, bytes]:
    plain = folder / MNIST_RAW / name
    if plain.is_file():
        return plain, read_bytes(plain)
    path = plain.with_name(f"{name}.gz")
    packed = read_bytes(path)
    try:
        return path, gzip.decompress(packed)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file ({error}); download it again") from error


def _sample() -> tuple[Tensor, Tensor, str]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().mul_(255 / 16)  # values 0 to 16
    large = torch.nn.functional.interpolate(small[:, None], size=(20, 20), mode="bilinear", align_corners=False)
    images = torch.nn.functional.pad(large, (4, 4, 4, 4))[:, 0].round_().to(torch.uint8)
    labels = torch.from_numpy(digits.target).long()
    content = {"images": images.numpy().tobytes(), "labels": labels.numpy().tobytes()}
    return images, labels, digest(content)

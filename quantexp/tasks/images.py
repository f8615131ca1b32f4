"""Image files of the user: decoded once to uint8, normalised when a batch is made.

An image is turned as its EXIF data say and converted to color or grey. With `task.size` its shorter side is resized to
that many pixels, bilinear and antialiased, and the center is cropped, as torchvision's Resize and CenterCrop do;
without, all images must be squares of one size. Transparency is dropped.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from quantexp.config import DataRequest, Images, Kind
from quantexp.results import InputSpec
from quantexp.system.errors import DataError, ModelError
from quantexp.tasks.data import Split, TaskData, taken_rows
from quantexp.tasks.decoded import Store, decoded, rows_of
from quantexp.tasks.files import read_bytes
from quantexp.tasks.inputs import Batch
from quantexp.tasks.listing import IMAGES, ignored_text
from quantexp.tasks.own_files import divided, log, task_data
from quantexp.tasks.preparation import Preparation

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # no others are tried: some start programs
MODES = {1: "L", 3: "RGB"}  # by channels
RULE = (
    "raw inputs of images must be a path, a PIL image or an array (height, width) or (height, width, channels) of uint8"
)


@dataclass(frozen=True)
class Pixels(Split):
    """Images as uint8, normalised when a batch is made: (pixel / 255 - mean) / std for each channel, float32.

    Example i is `pixels[rows[i]]`, shape (channels, height, width). `pixels` has the images of all splits and may be
    mapped from a file, so only its rows are copied.
    """

    pixels: NDArray[np.uint8]
    rows: Tensor
    task: Images
    flat: bool

    def __len__(self) -> int:
        return len(self.rows)

    def inputs(self, rows: Tensor) -> Batch:
        means, stds = (
            torch.tensor(values).view(-1, 1, 1) for values in (self.task.channel_means, self.task.channel_stds)
        )
        images = torch.from_numpy(rows_of(self.pixels, self.rows[rows])).float().div_(255).sub_(means).div_(stds)
        return (images.flatten(1) if self.flat else images,)

    def take(self, rows: Tensor) -> Pixels:
        return replace(self, labels=taken_rows(self.labels, rows), rows=self.rows[rows])

    def for_training(self, batch: Batch) -> Batch:
        """Return the images mirrored and moved at random, as `task.flip` and `task.shift` say.

        What moves in from outside is the mean color. The draws are from torch's global generator.
        """
        if not self.task.flip and not self.task.shift:
            return batch
        (images,) = batch
        images = images.view(len(images), *self.pixels.shape[1:])
        if self.task.flip:
            mirrored = torch.rand(len(images)) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        if self.task.shift:
            images = moved(images, torch.randint(-self.task.shift, self.task.shift + 1, (len(images), 2)))
        return (images.flatten(1) if self.flat else images,)


def moved(images: Tensor, by: Tensor) -> Tensor:
    """Return each image (channels, height, width) moved down and right by its pair of pixels; zeros move in."""
    count, _, height, width = images.shape
    reach = int(by.abs().max())
    padded = torch.nn.functional.pad(images, (reach, reach, reach, reach)).permute(0, 2, 3, 1)
    rows = reach + torch.arange(height) - by[:, :1]
    columns = reach + torch.arange(width) - by[:, 1:]
    example = torch.arange(count).view(-1, 1, 1)
    return padded[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def load(task: Images, kind: Kind, request: DataRequest) -> TaskData:
    """Decode the images. Raises DataError if files are missing or damaged."""
    listing = IMAGES.listing(request)
    if listing.ignored:
        log.info("data      %s", ignored_text(listing.ignored))
    first = listing.folder / listing.files[0].name
    with _without_warnings():
        side = task.size or _side(read_bytes(first), first)

    def decode(content: bytes, path: Path) -> NDArray[np.uint8]:
        return _decoded(content, path, task, side)

    store = Store(request.cache_dir, task.memory_mb, f"images {side} {task.channels}")
    with _without_warnings():
        found = decoded(listing.folder, listing.files, (task.channels, side, side), "uint8", decode, store)
    labels = listing.labels(listing.files)
    numbers = torch.tensor(labels)

    def make(rows: Tensor) -> Pixels:
        return Pixels(numbers[rows], found.values, rows, task, kind is Kind.features)

    return task_data(
        divided(len(listing.train), len(listing.test), task.test_share, request),
        make,
        numbers,
        listing.classes,
        request,
        preparation=Preparation(_specs(task, kind, side)),
        fingerprint=found.digest,
    )


def inputs(task: Images, kind: Kind) -> tuple[InputSpec, ...]:
    """Return the only input: an image, or its flat pixels; normalised, float32. `task.size` must be given."""
    return _specs(task, kind, int(task.size or 0))


def specs(task: Images, kind: Kind, preparation: Preparation) -> tuple[InputSpec, ...]:
    """Return the input for images that were read."""
    return inputs(task, kind) if task.size else preparation.inputs


def classes(task: Images) -> int:
    """Return the number of classes that is set for data=synthetic."""
    return task.classes


def encode(task: Images, kind: Kind, raw: Any, preparation: Preparation) -> tuple[Batch, bool]:
    """Prepare raw images: one gives a batch of one and True, a list or a stack of n a batch of n and False.

    Args:
        task: Has the size, the channels, the mean and the standard deviation.
        kind: The input that the network takes.
        raw: A path, a PIL image or an array of uint8 (height, width) or (height, width, channels); or a list of them,
            or an array (n, height, width, channels).
        preparation: Has the shape of the input.

    Raises:
        ModelError: If `raw` has another form, or a file cannot be read.
    """
    several = isinstance(raw, list | tuple) or getattr(raw, "ndim", 0) == 4
    images = list(raw) if several else [raw]
    if not images:
        raise ModelError(f"{RULE}, or a list of at least one of them; got an empty one")
    values = preparation.inputs[0].values
    side = task.size or math.isqrt(values // task.channels)
    try:
        with _without_warnings():
            found = [_prepared(_opened(image), "a raw input", task, side) for image in images]
    except DataError as error:
        raise ModelError(str(error)) from error
    pixels = np.stack(found)
    split = Pixels(None, pixels, torch.arange(len(pixels)), task, kind is Kind.features)
    return split.inputs(split.rows), not several


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignore what PIL says of metadata that are not used, and of large images; around threads, never in one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _specs(task: Images, kind: Kind, side: int) -> tuple[InputSpec, ...]:
    pairs = list(zip(task.channel_means, task.channel_stds, strict=True))
    low, high = min((0 - mean) / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)
    shape = (task.channels * side * side,) if kind is Kind.features else (task.channels, side, side)
    return (InputSpec("pixels", shape, "float32", low, high),)


def _opened(raw: Any) -> Image.Image:
    """Return a raw input as an image. Raises ModelError, DataError."""
    if isinstance(raw, str | Path):
        path = Path(raw).expanduser()
        return _image(read_bytes(path), path)
    if isinstance(raw, Image.Image):
        return raw
    try:
        array = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{RULE}; got a {type(raw).__name__}") from error
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or not array.size:
        raise ModelError(f"{RULE}; got a {type(raw).__name__} of {array.dtype} and shape {array.shape}")
    return Image.fromarray(array)


def _side(content: bytes, path: Path) -> int:
    """Return the side of the first image, which must be a square."""
    width, height = ImageOps.exif_transpose(_image(content, path)).size
    if width != height:
        raise DataError(
            f"{path}: without task.size all images must be squares of one size, this one has {width}x{height} pixels; "
            f"give one, such as task.size={min(width, height)}"
        )
    return width


def _decoded(content: bytes, path: Path, task: Images, side: int) -> NDArray[np.uint8]:
    """Return the image in a file as (channels, side, side)."""
    return _prepared(_image(content, path), str(path), task, side)


def _image(content: bytes, path: Path) -> Image.Image:
    """Return the image in a file, decoded. Raises DataError, which names the path."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        image.load()
    except Exception as error:  # on damaged files the decoders can raise anything
        reason = f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file" if isinstance(error, OSError) else ""
        reason = str(error) if "truncated" in str(error) or not reason else reason
        raise DataError(f"{path}: an image must be readable, this one is damaged ({reason}); replace it") from error
    return image


def _prepared(image: Image.Image, where: str, task: Images, side: int) -> NDArray[np.uint8]:
    """Return an image as uint8 (channels, side, side). Raises DataError if it is no square of a size that must be."""
    image = _converted(ImageOps.exif_transpose(image), MODES[task.channels])
    if image.size != (side, side):
        width, height = image.size
        if task.size is None:
            raise DataError(
                f"{where}: without task.size all images must have the same size, that of the first is {side}x{side} "
                f"pixels, of this one {width}x{height}; give one, such as task.size={side}"
            )
        image = image.resize(_resized(width, height, side), Image.Resampling.BILINEAR)
        left, top = (round((length - side) / 2) for length in image.size)
        image = image.crop((left, top, left + side, top + side))
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if task.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _resized(width: int, height: int, side: int) -> tuple[int, int]:
    """Return width and height with the shorter one equal to `side`."""
    short = min(width, height)
    return max(side, int(side * width / short)), max(side, int(side * height / short))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: convert() would cut them off at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)

"""Tasks that read the user's own files from the folder `data_dir`: images, text, audio, arrays; and the list of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from quantexp.config.inputs import Kind
from quantexp.config.option import NOTHING, WEIGHTS, option
from quantexp.config.task import CustomTask, DataSource, Mnist, Sentences, Sst2, Task

OWN_FILES = (DataSource.full, DataSource.synthetic)
HIDDEN = "widths of the default network's hidden layers"
CLASSES = "number of classes for data=synthetic; with files it is the number of their classes"
TEST_SHARE = "share of train that is held out as the test split, drawn with the seed, if there is no test split"
MEMORY = "memory for decoded examples in MB; more are read from a file in the cache folder, batch by batch"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1]


@dataclass
class OwnFiles(Task):
    """Examples in files of the user."""

    data: ClassVar[tuple[DataSource, ...]] = OWN_FILES

    hidden: list[int] = option(HIDDEN, [128], affects=WEIGHTS, at_least=1)
    test_share: float = option(TEST_SHARE, 0.2, affects=WEIGHTS, above=0, at_most=0.9)
    classes: int = option(CLASSES, 10, affects=WEIGHTS, at_least=2, at_most=65536)
    memory_mb: int = option(MEMORY, 2048, affects=NOTHING, at_least=0)


@dataclass
class Images(OwnFiles):
    """Image files in folders of their classes: train/CLASS/*.png, test/CLASS/*.png (also jpg, jpeg, bmp, webp)."""

    name: ClassVar[str] = "images"
    implementation: ClassVar[str] = "quantexp.tasks.images"
    sources: ClassVar[str] = "quantexp.tasks.sources.images"
    gives: ClassVar[tuple[Kind, ...] | None] = (Kind.features, Kind.image)
    size_setting: ClassVar[str | None] = "size"
    channels_setting: ClassVar[str | None] = "channels"

    size: int | None = option(
        "side of the images in pixels: the shorter side is resized to it, then the center is cropped; "
        "null: what the network takes, or else that of the files, which must all be squares of one size",
        None,
        affects=WEIGHTS,
        at_least=1,
        at_most=4096,
    )
    channels: int = option("3: color; 1: grey", 3, affects=WEIGHTS, at_least=1, at_most=3)
    mean: list[float] | None = option(
        "subtracted from pixels in [0, 1], one value or one for each channel; null: that of ImageNet",
        None,
        affects=WEIGHTS,
        at_least=0,
        at_most=1,
    )
    std: list[float] | None = option(
        "divisor after that, one value or one for each channel; null: that of ImageNet", None, affects=WEIGHTS, above=0
    )
    flip: bool = option("in training, mirror half of the images left to right, at random", False, affects=WEIGHTS)
    shift: int = option(
        "in training, move each image by up to so many pixels in each direction, at random",
        0,
        affects=WEIGHTS,
        at_least=0,
        at_most=1024,
    )

    @property
    def channel_means(self) -> tuple[float, ...]:
        """The mean of each channel."""
        return self._by_channel(self.mean, IMAGENET_MEAN)

    @property
    def channel_stds(self) -> tuple[float, ...]:
        """The standard deviation of each channel."""
        return self._by_channel(self.std, IMAGENET_STD)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.channels == 2:
            yield "task.channels must be 1 or 3, got 2"
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, self.channels):
                possible = (
                    "one value" if self.channels == 1 else f"one value, or one for each of {self.channels} channels"
                )
                yield f"task.{name} must have {possible}, got {values!r}"
        if self.size and self.shift >= self.size:
            yield f"task.shift must be less than task.size={self.size}, got {self.shift}"

    def synthetic_faults(self) -> Iterator[str]:
        if self.size is None:
            yield "data=synthetic has no images that give a size; give task.size, such as task.size=32"

    def _by_channel(self, values: list[float] | None, imagenet: tuple[float, ...]) -> tuple[float, ...]:
        if values is None:
            return imagenet if self.channels == 3 else (round(sum(imagenet) / 3, 6),)
        return tuple(values) if len(values) == self.channels else (values[0],) * self.channels


@dataclass
class Text(Sentences):
    """Sentences in a table: train.csv, .tsv, .jsonl or .parquet, and test.csv, ...; a column holds their labels."""

    name: ClassVar[str] = "text"
    implementation: ClassVar[str] = "quantexp.tasks.text"
    sources: ClassVar[str] = "quantexp.tasks.sources.text"
    data: ClassVar[tuple[DataSource, ...]] = OWN_FILES

    text: str = option("column of the sentences", "text", affects=WEIGHTS)
    label: str = option("column of the labels, numbers or names", "label", affects=WEIGHTS)
    lowercase: bool = option("whether words are counted in lower case", True, affects=WEIGHTS)
    test_share: float = option(TEST_SHARE, 0.2, affects=WEIGHTS, above=0, at_most=0.9)
    classes: int = option(CLASSES, 2, affects=WEIGHTS, at_least=2, at_most=65536)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.text == self.label:
            yield f"task.text and task.label must be two columns, got {self.text!r} for both"


@dataclass
class Audio(OwnFiles):
    """Sound files in folders of their classes: train/CLASS/*.wav, test/CLASS/*.wav (also flac)."""

    name: ClassVar[str] = "audio"
    implementation: ClassVar[str] = "quantexp.tasks.audio"
    sources: ClassVar[str] = "quantexp.tasks.sources.audio"
    gives: ClassVar[tuple[Kind, ...] | None] = (Kind.features, Kind.waveform)

    rate: int = option(
        "samples per second; files of another rate are resampled", 16000, affects=WEIGHTS, at_least=1000, at_most=384000
    )
    seconds: float = option(
        "length of an example; longer files are cut, shorter ones padded with silence",
        1.0,
        affects=WEIGHTS,
        at_least=0.001,
        at_most=3600,
    )
    normalize: bool = option("whether each example gets mean 0 and variance 1", True, affects=WEIGHTS)

    @property
    def samples(self) -> int:
        """The number of samples of an example."""
        return round(self.seconds * self.rate)


@dataclass
class Arrays(OwnFiles):
    """NumPy arrays: train.npz and test.npz with x, whose first dimension is the examples, and their labels y."""

    name: ClassVar[str] = "arrays"
    implementation: ClassVar[str] = "quantexp.tasks.arrays"
    sources: ClassVar[str] = "quantexp.tasks.sources.arrays"
    gives: ClassVar[tuple[Kind, ...] | None] = (Kind.features, Kind.image, Kind.sequence, Kind.waveform)

    scale: float = option("factor of all values of x, such as 0.0039 for pixels", 1.0, affects=WEIGHTS, above=0)
    shape: list[int] | None = option(
        "shape of an example for data=synthetic, such as [3,32,32]; with files it is that of x",
        None,
        affects=WEIGHTS,
        at_least=1,
    )

    def synthetic_faults(self) -> Iterator[str]:
        if not self.shape:
            yield "data=synthetic has no arrays that give a shape; give task.shape, such as task.shape=[3,32,32]"


TASKS: tuple[type[Task], ...] = (Mnist, Sst2, Images, Text, Audio, Arrays, CustomTask)

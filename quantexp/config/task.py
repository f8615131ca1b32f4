"""What is learned: the data, their preparation, and the sizes of the default network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from quantexp.config.inputs import Kind
from quantexp.config.option import WEIGHTS, Affects, Option, option
from quantexp.config.own import own_code_faults


class DataSource(StrEnum):
    """Where examples come from: the real data set, the small one inside the package, or random draws."""

    full = "full"
    sample = "sample"
    synthetic = "synthetic"


class CalibrationSplit(StrEnum):
    """The split that calibration examples are drawn from."""

    train = "train"
    test = "test"


class EvaluationSplit(StrEnum):
    """The split that quality is measured on."""

    test = "test"
    validation = "validation"


@dataclass(frozen=True)
class DataRequest:
    """Which examples a task must load. Paths are None where the user's defaults apply.

    `calibrates` tells whether the method needs the calibration examples: only then are too few of them an error.
    `seed` draws the calibration examples; `validation` is the share of the training examples that is held out,
    drawn with a seed of its own. `examples` limits the training examples that remain, drawn with the same seed.
    `evaluated` limits the examples that quality is measured on, drawn with that seed too.
    """

    source: DataSource = DataSource.full
    data_dir: str | None = None
    cache_dir: str | None = None
    calibration: CalibrationSplit = CalibrationSplit.train
    calibration_examples: int = 512
    seed: int = 0
    validation: float = 0.0
    validation_seed: int = 0
    calibrates: bool = True
    examples: int | None = None
    evaluated: int | None = None


@dataclass
class Task(Option):
    """A data set with its preparation and its splits: train, calibration, test, and validation where asked for.

    `gives` has the kinds of input that it can give; None where a user's class says so. `size_setting` names the
    setting that holds the side of its images in pixels, None where it gives no images; `usual_size` is its default.
    `channels_setting` names the setting that holds their number of channels, None where that is fixed.
    `sources` names what finds its files; a call with the option returns it, without torch.
    """

    group: ClassVar[str] = "task"
    choice_affects: ClassVar[Affects] = WEIGHTS
    gives: ClassVar[tuple[Kind, ...] | None] = ()
    data: ClassVar[tuple[DataSource, ...]] = tuple(DataSource)
    size_setting: ClassVar[str | None] = None
    usual_size: ClassVar[int] = 0
    channels_setting: ClassVar[str | None] = None
    usual_channels: ClassVar[int] = 1
    sources: ClassVar[str] = ""

    hidden: list[int] = option("widths of the default network's hidden layers", [], affects=WEIGHTS, at_least=1)

    @property
    def size(self) -> int | None:
        """Side of the square images that it gives, in pixels; None where it gives none, or has no size yet."""
        return getattr(self, self.size_setting) if self.size_setting else None

    def synthetic_faults(self) -> Iterator[str]:
        """Yield what random inputs need that the files would tell."""
        yield from ()

    @property
    def image_channels(self) -> int | None:
        """Number of channels of its images; None where it gives none, or has no number yet."""
        return getattr(self, self.channels_setting) if self.channels_setting else None


@dataclass
class Mnist(Task):
    """Handwritten digits: 60,000 to train on, 10,000 to test, 28x28 grey pixels, ten classes."""

    name: ClassVar[str] = "mnist"
    implementation: ClassVar[str] = "quantexp.tasks.mnist"
    sources: ClassVar[str] = "quantexp.tasks.sources.mnist"
    gives: ClassVar[tuple[Kind, ...] | None] = (Kind.features, Kind.image)
    size_setting: ClassVar[str | None] = "crop"
    usual_size: ClassVar[int] = 20  # the digit without its margin, as in the lab
    channels_setting: ClassVar[str | None] = "channels"

    hidden: list[int] = option(
        "widths of the default network's hidden layers", [1024, 1024], affects=WEIGHTS, at_least=1
    )
    crop: int | None = option(
        "side of the images, in pixels: to 28 the center, to 32 padded with black, beyond that enlarged; "
        "null: what the network takes, 32 for lenet5 and torchvision, or else 20",
        None,
        affects=WEIGHTS,
        at_least=4,
        at_most=1024,
    )
    channels: int | None = option(
        "channels of the images, 1 or 3 with equal values; null: what the network takes, 3 for torchvision, or else 1",
        None,
        affects=WEIGHTS,
        unchanged=1,
        at_least=1,
        at_most=3,
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.channels == 2:
            yield "task.channels must be 1 or 3, got 2"


@dataclass
class Sentences(Task):
    """Sentences with a label: as bags of words, or as tokens for networks that take them in order."""

    gives: ClassVar[tuple[Kind, ...] | None] = (Kind.features, Kind.tokens)

    hidden: list[int] = option(
        "widths of the default network's hidden layers", [256, 256, 256], affects=WEIGHTS, at_least=1
    )
    vocabulary: int = option(
        "how many of the most frequent training words are counted, or have tokens", 5000, affects=WEIGHTS, at_least=1
    )
    length: int = option("tokens of a sentence; more are cut off", 64, affects=WEIGHTS, at_least=1, at_most=65536)
    tokenizer: str | None = option(
        "tokenizer.json of Hugging Face, or the folder with it; null: that of model.path, or else words",
        None,
        affects=WEIGHTS,
    )


@dataclass
class Sst2(Sentences):
    """Movie-review sentences, positive or negative: 67,349 to train on, 872 to test."""

    name: ClassVar[str] = "sst2"
    implementation: ClassVar[str] = "quantexp.tasks.sst2"
    sources: ClassVar[str] = "quantexp.tasks.sources.sst2"


@dataclass
class CustomTask(Task):
    """A task of your own: a class, or a function that returns an object, called as target(**arguments)."""

    name: ClassVar[str] = "custom"
    implementation: ClassVar[str] = "quantexp.tasks.custom"
    sources: ClassVar[str] = "quantexp.tasks.sources.own"
    gives: ClassVar[tuple[Kind, ...] | None] = None
    data: ClassVar[tuple[DataSource, ...]] = (DataSource.full, DataSource.synthetic)

    hidden: list[int] = option("widths of the default network's hidden layers", [128], affects=WEIGHTS, at_least=1)
    target: str | None = option(
        "the class or function, as package.module.Class; it is imported, so its code runs", None, affects=WEIGHTS
    )
    arguments: Any = option("what it is called with, as in {length: 64}", None, affects=WEIGHTS)

    def __post_init__(self) -> None:
        if self.arguments is None:  # the default: a dict in its place could only be added to, with +
            self.arguments = {}
        super().__post_init__()

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from own_code_faults("task", self.target, self.arguments, given=("data_dir",))

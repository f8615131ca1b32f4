"""What is learned: the data, their preparation, and the sizes of the default network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from quantexp.config.option import Option, option

if TYPE_CHECKING:
    from torch import Tensor

    from quantexp.tasks.data import TaskData
    from quantexp.tasks.files import DataFiles


USUAL_CROP = 20  # the digit without its margin, as in the lab


class Source(StrEnum):
    """Where examples come from: the real data set, or the small one inside the package."""

    full = "full"
    sample = "sample"


class CalibrationSplit(StrEnum):
    """The split that calibration examples are drawn from."""

    train = "train"
    test = "test"


class EvaluationSplit(StrEnum):
    """The split that accuracy is measured on."""

    test = "test"
    validation = "validation"


@dataclass(frozen=True)
class DataRequest:
    """Which examples a task shall load. Paths are None where the user's defaults apply.

    `seed` draws the calibration examples; `validation` is the share of the training examples that is held out,
    drawn with a seed of its own.
    """

    source: Source = Source.full
    data_dir: str | None = None
    cache_dir: str | None = None
    calibration: CalibrationSplit = CalibrationSplit.train
    calibration_examples: int = 512
    seed: int = 0
    validation: float = 0.0
    validation_seed: int = 0


@dataclass
class Task(Option):
    """A data set with its preparation and its splits: train, calibration, test, and validation where asked for."""

    group: ClassVar[str] = "task"
    class_names: ClassVar[tuple[str, ...]] = ()  # where classes have names beside their numbers

    hidden: list[int] = option("widths of the default network's hidden layers", [], at_least=1)

    @property
    def side(self) -> int | None:
        """Side of the square images that it gives, in pixels; None where its inputs are no images."""
        return None

    @property
    def files(self) -> DataFiles:
        """Where the files of the data set are looked for; needs no torch."""
        raise NotImplementedError

    def check(self, request: DataRequest) -> None:
        """Make sure, in seconds and without torch, that the data can be had. Raises DataError."""
        self.files.check(request)

    def stamp(self, request: DataRequest) -> object:
        """Return what changes when the files of the data set do. Raises DataError as `load`."""
        return self.files.stamp(request)

    def load(self, request: DataRequest) -> TaskData:
        """Load the splits. Raises DataError if files are missing, damaged or out of reach."""
        raise NotImplementedError

    def features(self, vocabulary: Sequence[str]) -> int:
        """Return how many values one input has, given the words that are counted."""
        raise NotImplementedError

    def encode(self, raw: Any, vocabulary: Sequence[str]) -> Tensor:
        """Prepare raw inputs as `load` does: one gives (features,), many give (n, features). Raises ModelError."""
        raise NotImplementedError


@dataclass
class Mnist(Task):
    """Handwritten digits: 60,000 to train on, 10,000 to test, 28x28 grey pixels, ten classes."""

    name: ClassVar[str] = "mnist"

    hidden: list[int] = option("widths of the default network's hidden layers", [1024, 1024], at_least=1)
    crop: int | None = option(
        "side of the centre crop, in pixels, beyond 28 padded with black; the input has crop² values; "
        "null: what the network takes, 32 for lenet5, or else 20",
        None,
        at_least=4,
        at_most=32,
    )

    @property
    def side(self) -> int:
        return USUAL_CROP if self.crop is None else self.crop

    @property
    def files(self) -> DataFiles:
        from quantexp.tasks.sources import MNIST

        return MNIST

    def load(self, request: DataRequest) -> TaskData:
        from quantexp.tasks import mnist

        return mnist.load(self, request)

    def features(self, vocabulary: Sequence[str]) -> int:
        return self.side**2

    def encode(self, raw: Any, vocabulary: Sequence[str]) -> Tensor:
        from quantexp.tasks import mnist

        return mnist.encode(raw, self.side)


@dataclass
class Sst2(Task):
    """Movie-review sentences, positive or negative: 67,349 to train on, 872 to test, as bags of words."""

    name: ClassVar[str] = "sst2"
    class_names: ClassVar[tuple[str, ...]] = ("negative", "positive")

    hidden: list[int] = option("widths of the default network's hidden layers", [256, 256, 256], at_least=1)
    vocabulary: int = option("how many of the most frequent training words are counted", 5000, at_least=1)

    @property
    def files(self) -> DataFiles:
        from quantexp.tasks.sources import SST2

        return SST2

    def load(self, request: DataRequest) -> TaskData:
        from quantexp.tasks import sst2

        return sst2.load(self, request)

    def features(self, vocabulary: Sequence[str]) -> int:
        return len(vocabulary)

    def encode(self, raw: Any, vocabulary: Sequence[str]) -> Tensor:
        from quantexp.tasks import sst2

        return sst2.encode(raw, vocabulary)

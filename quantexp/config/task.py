"""What is learned: the data, their preparation, and the sizes of the default network."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from quantexp.config.option import Option, option

if TYPE_CHECKING:
    from quantexp.tasks.base import TaskData


class Source(StrEnum):
    """Where examples come from: the real data set, or the small one inside the package."""

    full = "full"
    sample = "sample"


class CalibrationSplit(StrEnum):
    """The split that calibration examples are drawn from."""

    train = "train"
    test = "test"


@dataclass(frozen=True)
class DataRequest:
    """Which examples a task shall load. Paths are None where the user's defaults apply."""

    source: Source = Source.full
    data_dir: str | None = None
    cache_dir: str | None = None
    calibration: CalibrationSplit = CalibrationSplit.train
    calibration_examples: int = 512
    seed: int = 0


@dataclass
class Task(Option):
    """A data set with its preparation and its three splits: train, calibration and test."""

    group: ClassVar[str] = "task"

    hidden: list[int] = option("widths of the default network's hidden layers", [], at_least=1)

    def check(self, request: DataRequest) -> None:
        """Make sure, in seconds and without torch, that the data can be had. Raises DataError."""
        raise NotImplementedError

    def load(self, request: DataRequest) -> TaskData:
        """Load the three splits. Raises DataError if files are missing, damaged or out of reach."""
        raise NotImplementedError


@dataclass
class Mnist(Task):
    """Handwritten digits: 60,000 to train on, 10,000 to test, 28x28 grey pixels, ten classes."""

    name: ClassVar[str] = "mnist"

    hidden: list[int] = option("widths of the default network's hidden layers", [1024, 1024], at_least=1)
    crop: int = option("side of the centre crop, in pixels; the input has crop² values", 20, at_least=4, at_most=28)

    def check(self, request: DataRequest) -> None:
        from quantexp.tasks.sources import MNIST

        MNIST.check(request)

    def load(self, request: DataRequest) -> TaskData:
        from quantexp.tasks import mnist

        return mnist.load(self, request)


@dataclass
class Sst2(Task):
    """Movie-review sentences, positive or negative: 67,349 to train on, 872 to test, as bags of words."""

    name: ClassVar[str] = "sst2"

    hidden: list[int] = option("widths of the default network's hidden layers", [256, 256, 256], at_least=1)
    vocabulary: int = option("how many of the most frequent training words are counted", 5000, at_least=1)

    def check(self, request: DataRequest) -> None:
        from quantexp.tasks.sources import SST2

        SST2.check(request)

    def load(self, request: DataRequest) -> TaskData:
        from quantexp.tasks import sst2

        return sst2.load(self, request)

"""What a run is: one variant of one network, or a study that asks something else and records what it found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from quantexp.config.levers import Granularity
from quantexp.config.option import Option, option

if TYPE_CHECKING:
    from quantexp.config.experiment import Experiment
    from quantexp.perform import Request

MOST_VALUES = 2**24


@dataclass
class Study(Option):
    """What is done with an experiment.

    `needs_data` says whether it reads the task's data, `by_layer` whether it chooses the layers that are quantized.
    """

    group: ClassVar[str] = "study"
    needs_data: ClassVar[bool] = True
    by_layer: ClassVar[bool] = False

    def perform(self, experiment: Experiment, request: Request) -> None:
        """Do the work, show the result and record it. Raises QuantexpError."""
        raise NotImplementedError


@dataclass
class Single(Study):
    """One variant: train or load, quantize, prove it, measure."""

    name: ClassVar[str] = "single"

    def perform(self, experiment: Experiment, request: Request) -> None:
        from quantexp.perform import perform

        perform(experiment, request)


@dataclass
class Affine(Study):
    """The arithmetic itself, on a tensor of normal values: its error, its bytes, and why outliers hurt.

    No network is trained: of the other settings only `seed` and `tracking` matter.
    """

    name: ClassVar[str] = "affine"
    needs_data: ClassVar[bool] = False

    shape: list[int] = option("shape of the tensor; its first axis is that of the channels", [64, 256], at_least=1)
    num_bits: int = option("bits of an integer", 8, at_least=2, at_most=16)
    signed: bool = option("whether the integers are signed", False)
    symmetric: bool = option("whether the range reaches as far below zero as above it", False)
    nearest: bool = option("whether zero_point is rounded, as torch does; else its whole part, as the lab does", False)
    granularity: Granularity = option("which values share a scale: per_tensor, or per_channel", Granularity.per_tensor)
    bits: list[int] = option("bit widths that the error is drawn at", [2, 3, 4, 5, 6, 7, 8], at_least=2, at_most=16)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if len(self.shape) < 2 or math.prod(self.shape[1:]) < 2:
            yield (
                "study.shape must have two axes or more, and two values or more in a channel, such as [64,256]; "
                f"got {self.shape}"
            )
        elif math.prod(self.shape) > MOST_VALUES:
            yield f"study.shape must hold at most {MOST_VALUES:,} values, got {math.prod(self.shape):,}"
        if not self.bits:
            yield "study.bits must name a bit width or more, such as [2,4,8], got []"

    def perform(self, experiment: Experiment, request: Request) -> None:
        from quantexp.perform import perform_study
        from quantexp.studies import affine

        perform_study(experiment, request, lambda: affine.find(self, experiment.seed))


@dataclass
class Sensitivity(Study):
    """Each layer quantized alone, and all but it: accuracy, loss, output SQNR, latency, size; which to keep in float.

    A run for each variant, below the one of the study. Typed again, it goes on where it stopped.
    """

    name: ClassVar[str] = "sensitivity"
    by_layer: ClassVar[bool] = True

    layers: list[str] = option(
        "patterns of layers that are varied one by one, or of modules with children that are varied as a whole, as "
        "[features,classifier.*]; none: every layer that is quantized",
        [],
    )
    resume: bool = option("go on with what was measured before; false: measure everything anew", True)

    def perform(self, experiment: Experiment, request: Request) -> None:
        from quantexp.conduct import conduct
        from quantexp.studies import sensitivity

        conduct(experiment, request, sensitivity.find(self, replace(experiment, study=Single())), self.resume)


STUDIES: tuple[type[Study], ...] = (Single, Affine, Sensitivity)

"""How precision is lowered: one option a method, with what it can lower to and what it promises.

`precisions` lists what a method can do, its own choice first. `apply` returns a new model and leaves
the float model as it was; `skeleton` gives the same structure without its numbers, which is how a
stored model is built again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from quantexp.config.option import Option, option
from quantexp.config.task import CalibrationSplit
from quantexp.config.train import Train

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quantexp.baselines import Baseline
    from quantexp.quant.base import Quantized
    from quantexp.tasks.base import TaskData


class Engine(StrEnum):
    """The kernel library that executes int8; which of them exist depends on the machine."""

    x86 = "x86"
    fbgemm = "fbgemm"
    onednn = "onednn"
    qnnpack = "qnnpack"


class Granularity(StrEnum):
    """Which weights share a scale: those of one output channel, or all of a layer."""

    per_channel = "per_channel"
    per_tensor = "per_tensor"


class Observer(StrEnum):
    """How the range of activations is chosen from what calibration shows."""

    histogram = "histogram"
    minmax = "minmax"
    moving_average = "moving_average"


class Start(StrEnum):
    """The weights that quantization-aware training begins with."""

    trained = "trained"
    scratch = "scratch"


@dataclass
class Quant(Option):
    """A quantization method."""

    group: ClassVar[str] = "quant"
    precisions: ClassVar[tuple[str, ...]] = ()

    @property
    def packs_for(self) -> Engine | None:
        """The engine that the weights are packed for; None where nothing is packed."""
        return getattr(self, "engine", None)

    def apply(self, baseline: Baseline, data: TaskData, train: Train, precision: str) -> Quantized:
        """Return the quantized model and what it cost. Raises QuantizationError, TrainingError."""
        raise NotImplementedError

    def skeleton(self, model: nn.Module, precision: str, example: Tensor) -> nn.Module:
        """Return `model` in the structure that `apply` leaves, its numbers still to be filled in.

        `example` is a batch of inputs, of the right shape; its values do not matter.
        """
        raise NotImplementedError


@dataclass
class NoQuant(Quant):
    """The float model; with bf16 or fp16, its weights cast to half the bytes."""

    name: ClassVar[str] = "none"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")

    def apply(self, baseline: Baseline, data: TaskData, train: Train, precision: str) -> Quantized:
        from quantexp.quant import none

        return none.apply(baseline, precision)

    def skeleton(self, model: nn.Module, precision: str, example: Tensor) -> nn.Module:
        from quantexp.quant import none

        return none.skeleton(model, precision)


@dataclass
class Dynamic(Quant):
    """Weights of Linear layers quantized beforehand, the range of their inputs found at each call."""

    name: ClassVar[str] = "dynamic"
    precisions: ClassVar[tuple[str, ...]] = ("int8", "fp16")

    engine: Engine = option("kernel library that executes the layers", Engine.x86)

    def apply(self, baseline: Baseline, data: TaskData, train: Train, precision: str) -> Quantized:
        from quantexp.quant import dynamic

        return dynamic.apply(self, baseline, precision)

    def skeleton(self, model: nn.Module, precision: str, example: Tensor) -> nn.Module:
        from quantexp.quant import dynamic

        return dynamic.skeleton(self, model, precision)


@dataclass
class Static(Quant):
    """Weights and activations quantized after training, with ranges seen on calibration examples."""

    name: ClassVar[str] = "static"
    precisions: ClassVar[tuple[str, ...]] = ("int8",)

    engine: Engine = option("kernel library that executes the layers", Engine.x86)
    weights: Granularity = option("which weights share a scale: per_channel or per_tensor", Granularity.per_channel)
    observer: Observer = option("how activation ranges are chosen", Observer.histogram)
    calibration: CalibrationSplit = option(
        "split to calibrate on; test is what the lab allows, and is tagged", CalibrationSplit.train
    )
    calibration_examples: int = option("examples to calibrate on", 512, at_least=1)

    def apply(self, baseline: Baseline, data: TaskData, train: Train, precision: str) -> Quantized:
        from quantexp.quant import static

        return static.apply(self, baseline, data)

    def skeleton(self, model: nn.Module, precision: str, example: Tensor) -> nn.Module:
        from quantexp.quant import static

        return static.skeleton(self, model, example)


@dataclass
class Qat(Quant):
    """Trained on with fake quantization in the loop, then converted to the integer kernels."""

    name: ClassVar[str] = "qat"
    precisions: ClassVar[tuple[str, ...]] = ("int8",)

    engine: Engine = option("kernel library that executes the layers", Engine.x86)
    weights: Granularity = option("which weights share a scale: per_channel or per_tensor", Granularity.per_channel)
    start: Start = option("trained: from the float model; scratch: from fresh weights", Start.trained)
    epochs: int | None = option("passes; null: 1 from the trained model, train.epochs from scratch", None, at_least=1)
    learning_rate: float | None = option(
        "step size; null: a tenth of train.learning_rate from the trained model, all of it from scratch", None, above=0
    )
    freeze_after: float = option("share of the steps after which observers freeze", 0.5, above=0, at_most=1)

    def apply(self, baseline: Baseline, data: TaskData, train: Train, precision: str) -> Quantized:
        from quantexp.quant import qat

        return qat.apply(self, baseline, data, train)

    def skeleton(self, model: nn.Module, precision: str, example: Tensor) -> nn.Module:
        from quantexp.quant import qat

        return qat.skeleton(self, model, example)


@dataclass
class Amp(Quant):
    """Automatic mixed precision: trained from scratch under autocast, and run under it."""

    name: ClassVar[str] = "amp"
    precisions: ClassVar[tuple[str, ...]] = ("bf16", "fp16")

    def apply(self, baseline: Baseline, data: TaskData, train: Train, precision: str) -> Quantized:
        from quantexp.quant import amp

        return amp.apply(baseline, data, train, precision)

    def skeleton(self, model: nn.Module, precision: str, example: Tensor) -> nn.Module:
        from quantexp.quant import amp

        return amp.skeleton(model, precision)


METHODS: tuple[type[Quant], ...] = (NoQuant, Dynamic, Static, Qat, Amp)

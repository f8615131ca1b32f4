"""What a method hands back, and what it must have left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from quantexp.results import Training


@dataclass(frozen=True)
class Promise:
    """What must be found in a quantized model: layers with weights, or operators that run, in a precision.

    `layers` and `operators` name a precision ("int8", "bf16", ...) or are None where nothing is
    promised of them; `handles` says in words what the method can lower. Of the layers that stay in float,
    with the reason of each, `kept` has those that the user asked for, `unfit` those that no kernel takes.
    """

    handles: str
    layers: str | None = None
    operators: str | None = None
    kept: Mapping[str, str] = field(default_factory=dict)
    unfit: Mapping[str, str] = field(default_factory=dict)

    @property
    def excused(self) -> Mapping[str, str]:
        """Why layers are in float, by name, as far as it was known beforehand."""
        return {**self.unfit, **self.kept}


class Simulated(nn.Module):
    """A layer whose values are rounded to few bits and computed with in float; its weight is that of `layer`.

    Its inputs become scale · (q - zero_point), q from 0 to `quant_max`.
    """

    layer: nn.Module
    weight_bits: int
    scale: Tensor
    zero_point: Tensor
    quant_max: int


class Wrapper(nn.Module):
    """A network with something done to its inputs and outputs. Its layers are those of `model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)


@dataclass(frozen=True)
class Quantized:
    """A quantized model, ready to predict on the CPU, and what it cost.

    `promise` is None only for the float model itself. `training` is None for methods that do not
    train, `calibration_seconds` for those that see no calibration examples.
    """

    model: nn.Module
    promise: Promise | None
    training: Training | None = None
    calibration_seconds: float | None = None

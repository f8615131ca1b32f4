"""The result of a method, and what inspection must find in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from quantexp.results import Training


@dataclass(frozen=True)
class Promise:
    """What inspection must find in a quantized network: layers, or operators that run, in a precision.

    `layers` and `operators` name a precision ("int8", "bf16", ...), or are None if the method promises nothing about
    them. `handles` says in words what the method can quantize. `kept` and `unfit` are the layers that stay in float,
    with the reasons: `kept` those that the user chose, `unfit` those that have no kernel. `required` names layers that
    must be in the precision `layers`, each of them.
    """

    handles: str
    layers: str | None = None
    operators: str | None = None
    kept: Mapping[str, str] = field(default_factory=dict)
    unfit: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    @property
    def excused(self) -> Mapping[str, str]:
        """The layers that were expected to stay in float, by name, with the reasons."""
        return {**self.unfit, **self.kept}


class Simulated(nn.Module):
    """A layer whose values are rounded to few bits while the computation is in float; its weight is that of `layer`.

    Its inputs are rounded to scale · (q - zero_point), q from 0 to `quant_max`; with 1 bit, each channel has its grid.
    """

    layer: nn.Module
    weight_bits: int
    scale: Tensor
    zero_point: Tensor
    quant_max: int


class Wrapper(nn.Module):
    """A network that processes the inputs and outputs of another one, `model`, which has its layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)


@dataclass(frozen=True)
class Quantized:
    """A quantized network, ready to predict on the CPU, and its cost.

    `promise` is None only for the float network itself. `training` is None for methods without training,
    `calibration_seconds` for methods without calibration. `simulated` is a batch and the outputs for it of the network
    with fake quant, if that was trained.
    """

    model: nn.Module
    promise: Promise | None
    training: Training | None = None
    calibration_seconds: float | None = None
    simulated: tuple[tuple[Tensor, ...], Tensor] | None = None

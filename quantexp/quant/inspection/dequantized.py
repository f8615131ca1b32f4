"""The dequantized weights, inputs and outputs of the layers of a network, whatever precision it computes in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantexp.quant.inspection.layers import HeldWeights, held_weights
from quantexp.quant.inspection.promise import Simulated

UNIT_ROWS = 256  # of the identity matrix, that a weight is multiplied with at once


@dataclass(frozen=True)
class Grid:
    """The values that the inputs of a layer are rounded to: scale · (q - zero_point), q from quant_min to quant_max."""

    scale: float
    zero_point: int
    quant_min: int
    quant_max: int

    @property
    def low(self) -> float:
        """The smallest value."""
        return self.scale * (self.quant_min - self.zero_point)

    @property
    def high(self) -> float:
        """The largest value."""
        return self.scale * (self.quant_max - self.zero_point)


@dataclass(frozen=True)
class Step:
    """A function that the network computes next, from the output of a layer alone: normalisation, or ReLU.

    `norm` is the name of the batch normalisation, None for ReLU.
    """

    compute: Callable[[Tensor], Tensor]
    norm: str | None = None


@dataclass(frozen=True)
class Call:
    """The inputs and the output of a layer in one call, dequantized.

    `inputs` is None if they are indices, which have no range. `grid` is the grid of the inputs, None if there is no
    fixed one: they are floats, or their range is computed in each call. `rectified` is True if the output includes a
    ReLU that is a separate layer in the float network. `output` is None if the kernel also computes something else.
    `behind` are the steps that follow in a network of modules, until another function takes the output.
    """

    inputs: Tensor | None
    output: Tensor | None
    grid: Grid | None = None
    rectified: bool = False
    behind: tuple[Step, ...] = ()


@torch.no_grad()
def weight(held: HeldWeights) -> Tensor:
    """Return the dequantized weight of a layer, in the shape of the float weight; flat if the layer has several."""
    if held.more:
        return torch.cat([stored.detach().dequantize().float().flatten() for stored in held.weights])
    stored = held.weight.detach()
    if held.scale is not None:
        return stored.float() * held.scale.view(-1, *[1] * (stored.dim() - 1))
    if held.dtype is torch.int4:  # type: ignore[attr-defined]
        return _multiplied_with_units(stored)
    return stored.dequantize().float()  # a float tensor is unchanged


def named_layers(model: nn.Module) -> dict[str, HeldWeights]:
    """Return the weights of the layers by the names of the layers in the float network."""
    wrapped = {f"{name}.layer": name for name in simulated(model)}
    return {wrapped.get(held.name, held.name): held for held in held_weights(model)}


def simulated(model: nn.Module) -> dict[str, Simulated]:
    """Return the simulated layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Simulated)}


def _multiplied_with_units(packed: Tensor) -> Tensor:
    """Return the values of an int4 weight: only its kernel can unpack it, so it is multiplied with unit vectors."""
    count = packed.shape[1]
    columns = []
    for rows in torch.split(torch.arange(count), UNIT_ROWS):
        units = nn.functional.one_hot(rows, count).to(packed.dtype)
        columns.append(nn.functional.linear(units, packed))
    return torch.cat(columns).T.float()

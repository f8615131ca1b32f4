"""The dequantized weights, inputs and outputs of the layers of a network, whatever precision it computes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.quant.inspection.layers import HeldWeights, held_weights
from quantexp.quant.inspection.promise import Simulated, Wrapper
from quantexp.tasks.inputs import Batch

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
class Call:
    """The inputs and the output of a layer in one call, dequantized.

    `inputs` is None if they are indices, which have no range. `grid` is the grid of the inputs, None if there is no
    fixed one: they are floats, or their range is computed in each call. `rectified` is True if the output includes a
    ReLU that is a separate layer in the float network. `output` is None if the kernel also computes something else.
    """

    inputs: Tensor | None
    output: Tensor | None
    grid: Grid | None = None
    rectified: bool = False


@torch.no_grad()
def weight(held: HeldWeights) -> Tensor:
    """Return the dequantized weight of a layer, in the shape of the float weight."""
    stored = held.weight.detach()
    if held.scale is not None:
        return stored.float() * held.scale.view(-1, *[1] * (stored.dim() - 1))
    if held.dtype is torch.int4:  # type: ignore[attr-defined]
        return _multiplied_with_units(stored)
    return stored.dequantize().float()  # a float tensor is unchanged


@torch.no_grad()
def calls(
    model: nn.Module, batch: Batch, ends: Mapping[str, nn.Module] = MappingProxyType({})
) -> dict[str, list[Call]]:
    """Return the calls of each layer when the network runs on `batch`, by the names of the layers in the float network.

    Args:
        model: Runs once; all hooks are removed again.
        batch: The inputs.
        ends: Modules whose output replaces that of a layer, such as a batch normalisation that is folded into it.
    """
    network = model.model if isinstance(model, Wrapper) else model
    if own := getattr(network, "layer_calls", None):  # a graph has no modules for hooks
        graph_calls: dict[str, list[Call]] = own(batch)
        return graph_calls
    layers = named_layers(model)
    inputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = []
    try:
        for name, held in layers.items():
            end = ends.get(name, held.module)
            hooks.append(held.module.register_forward_hook(partial(_record, inputs[name], True)))
            hooks.append(end.register_forward_hook(partial(_record, outputs[name], False)))
        model(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    rounding = _simulated(model)
    return {
        name: [
            Call(_values(tensor), output.dequantize(), _grid(tensor, rounding.get(name)), _rectifies(held))
            for tensor, output in zip(inputs[name], outputs[name], strict=False)
        ]
        for name, held in layers.items()
    }


def named_layers(model: nn.Module) -> dict[str, HeldWeights]:
    """Return the weights of the layers by the names of the layers in the float network."""
    wrapped = {f"{name}.layer": name for name in _simulated(model)}
    return {wrapped.get(held.name, held.name): held for held in held_weights(model)}


def _simulated(model: nn.Module) -> dict[str, Simulated]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Simulated)}


def _record(tensors: list[Tensor], record_inputs: bool, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
        tensors.append((inputs[0] if record_inputs else output).clone())  # the network may change it in place later


def _values(inputs: Tensor) -> Tensor | None:
    return inputs.dequantize() if inputs.is_quantized or inputs.is_floating_point() else None


def _grid(inputs: Tensor, rounding: Simulated | None) -> Grid | None:
    if rounding is not None:
        return Grid(float(rounding.scale), int(rounding.zero_point), 0, rounding.quant_max)
    if not inputs.is_quantized:
        return None
    bounds = torch.iinfo(inputs.dtype)
    return Grid(inputs.q_scale(), inputs.q_zero_point(), int(bounds.min), int(bounds.max))


def _rectifies(held: HeldWeights) -> bool:
    """Return whether torch.ao fused the layer and its ReLU into one module."""
    return type(held.module).__module__.startswith("torch.ao.nn.intrinsic") and "ReLU" in held.kind


def _multiplied_with_units(packed: Tensor) -> Tensor:
    """Return the values of an int4 weight: only its kernel can unpack it, so it is multiplied with unit vectors."""
    count = packed.shape[1]
    columns = []
    for rows in torch.split(torch.arange(count), UNIT_ROWS):
        units = nn.functional.one_hot(rows, count).to(packed.dtype)
        columns.append(nn.functional.linear(units, packed))
    return torch.cat(columns).T.float()

"""A network as float sees it, whatever it computes in: the weights of its layers, what they take and what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.quant.inspection.evidence import HeldWeights, held_weights
from quantexp.quant.inspection.promise import Simulated, Wrapper
from quantexp.tasks.inputs import Batch

UNIT_ROWS = 256  # of the identity, that weights are multiplied with at once


@dataclass(frozen=True)
class Grid:
    """The values that the inputs of a layer are rounded to: scale · (q - zero_point), q from quant_min to quant_max."""

    scale: float
    zero_point: int
    quant_min: int
    quant_max: int

    @property
    def low(self) -> float:
        """The least value."""
        return self.scale * (self.quant_min - self.zero_point)

    @property
    def high(self) -> float:
        """The greatest value."""
        return self.scale * (self.quant_max - self.zero_point)


@dataclass(frozen=True)
class Call:
    """What a layer took and gave in one call, dequantized.

    `inputs` is None where they are indices, which have no range. `grid` is that of the inputs, None where none is
    fixed: they are floats, or their range is found at each call. `rectified` tells that ReLU, which a float network
    runs behind the layer, is in the output. `output` is None where the kernel does something else besides.
    """

    inputs: Tensor | None
    output: Tensor | None
    grid: Grid | None = None
    rectified: bool = False


@torch.no_grad()
def weight(held: HeldWeights) -> Tensor:
    """Return the values that the weight of a layer stands for, of the shape of the float layer's."""
    given = held.weight.detach()
    if held.scale is not None:
        return given.float() * held.scale.view(-1, *[1] * (given.dim() - 1))
    if held.dtype is torch.int4:  # type: ignore[attr-defined]
        return _multiplied_with_units(given)
    return given.dequantize().float()  # a float tensor gives itself


@torch.no_grad()
def calls(
    model: nn.Module, batch: Batch, ends: Mapping[str, nn.Module] = MappingProxyType({})
) -> dict[str, list[Call]]:
    """Return what each layer takes and gives when the network runs on `batch`, by the names of the float network.

    Args:
        model: Runs once; no hook is left in it.
        batch: What it runs on.
        ends: Modules whose outputs stand for those of a layer, such as the batch normalisation that is folded into it.
    """
    network = model.model if isinstance(model, Wrapper) else model
    if own := getattr(network, "layer_calls", None):  # a graph has no modules to watch
        graph_calls: dict[str, list[Call]] = own(batch)
        return graph_calls
    layers = named_layers(model)
    taken: dict[str, list[Tensor]] = {name: [] for name in layers}
    given: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = []
    try:
        for name, held in layers.items():
            end = ends.get(name, held.module)
            hooks.append(held.module.register_forward_hook(partial(_keep, taken[name], True)))
            hooks.append(end.register_forward_hook(partial(_keep, given[name], False)))
        model(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    rounding = _simulated(model)
    return {
        name: [
            Call(_values(one), other.dequantize(), _grid(one, rounding.get(name)), _rectifies(held))
            for one, other in zip(taken[name], given[name], strict=False)
        ]
        for name, held in layers.items()
    }


def named_layers(model: nn.Module) -> dict[str, HeldWeights]:
    """Return the weights that a network holds by the names that the layers have in the float network."""
    wrapped = {f"{name}.layer": name for name in _simulated(model)}
    return {wrapped.get(held.name, held.name): held for held in held_weights(model)}


def _simulated(model: nn.Module) -> dict[str, Simulated]:
    return {name: one for name, one in model.named_modules() if isinstance(one, Simulated)}


def _keep(kept: list[Tensor], entering: bool, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
        kept.append((inputs[0] if entering else output).clone())  # the network may go on to change it in place


def _values(taken: Tensor) -> Tensor | None:
    return taken.dequantize() if taken.is_quantized or taken.is_floating_point() else None


def _grid(taken: Tensor, rounding: Simulated | None) -> Grid | None:
    if rounding is not None:
        return Grid(float(rounding.scale), int(rounding.zero_point), 0, rounding.quant_max)
    if not taken.is_quantized:
        return None
    bounds = torch.iinfo(taken.dtype)
    return Grid(taken.q_scale(), taken.q_zero_point(), int(bounds.min), int(bounds.max))


def _rectifies(held: HeldWeights) -> bool:
    """Whether torch.ao made one module of the layer and its ReLU."""
    return type(held.module).__module__.startswith("torch.ao.nn.intrinsic") and "ReLU" in held.kind


def _multiplied_with_units(given: Tensor) -> Tensor:
    """Return what a weight of shape (outputs, inputs) does to unit vectors: only the kernel of int4 can unpack it."""
    count = given.shape[1]
    columns = []
    for rows in torch.split(torch.arange(count), UNIT_ROWS):
        units = nn.functional.one_hot(rows, count).to(given.dtype)
        columns.append(nn.functional.linear(units, given))
    return torch.cat(columns).T.float()

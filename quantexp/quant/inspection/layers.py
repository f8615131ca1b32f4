"""The layers of a network: modules that hold weights, whatever precision they hold them in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantexp.quant.inspection.promise import Wrapper


@dataclass(frozen=True)
class HeldWeights:
    """The weight and bias of one layer, and the dtype of the stored weight, which can differ after unpacking.

    `qscheme` is None for a layer that is not quantized. `scale` has one number per channel if the weight is a tensor of
    plain integers, None if the tensor has its own scales.
    """

    name: str
    kind: str
    module: nn.Module
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    qscheme: str | None = None
    scale: Tensor | None = None


def held_weights(model: nn.Module, *, packed: bool = False) -> Iterator[HeldWeights]:
    """Yield the weights of the layers; with `packed`, only those of layers with packed weights."""
    network = model.model if isinstance(model, Wrapper) else model
    if own := getattr(network, "held_weights", None):  # a graph lists its layers itself, and has no packed weights
        yield from () if packed else own()
        return
    for name, module in network.named_modules():
        kind = type(module).__name__
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if callable(weight):  # quantized layers unpack their weight in this call
            unpacked = weight()
            held = getattr(getattr(module, "_packed_params", None), "dtype", unpacked.dtype)
            qscheme = str(unpacked.qscheme()).removeprefix("torch.") if unpacked.is_quantized else None
            yield HeldWeights(name, kind, module, unpacked, bias() if callable(bias) else None, held, qscheme)
        elif isinstance(weight, Tensor) and not packed:
            yield HeldWeights(_unfused(name, network), kind, module, weight, bias, *held_as(weight))


def held_as(weight: Tensor) -> tuple[torch.dtype, str | None]:
    """Return the dtype of the stored values of a weight, and its qscheme, which is None if it is not quantized.

    A weight of torchao has a float dtype, but its values are in `qdata`, with two int4 values in a byte.
    """
    values = getattr(weight, "qdata", None)
    if values is None:
        return weight.dtype, None
    rows, columns = weight.block_size  # type: ignore[attr-defined]
    granularity = "per_tensor" if rows > 1 else "per_channel" if columns == weight.shape[1] else "per_group"
    zero_point = getattr(weight, "zero_point", None) if hasattr(weight, "zero_point") else values
    affine = zero_point is not None and bool(zero_point.any())
    is_int4 = 2 * values.nbytes == weight.numel()
    dtype = torch.int4 if is_int4 else values.dtype  # type: ignore[attr-defined]
    return dtype, f"{granularity}_{'affine' if affine else 'symmetric'}"


def _unfused(name: str, network: nn.Module) -> str:
    """Return the name of a layer before torch.ao fused it with its activation: `0` for `0.0`."""
    parent, _, index = name.rpartition(".")
    fused = index == "0" and type(network.get_submodule(parent)).__module__.startswith("torch.ao.nn.intrinsic")
    return parent if fused else name

"""Weights that torch.ao packed for a kernel, as plain tensors, and packed again.

Packed weights are objects of TorchScript, which only a pickle could store. Each kind can be unpacked to tensors, and
packed again for the engine that is set. What is no tensor, such as the stride of a convolution, is that of the object
that is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

LINEAR, CONVOLUTION, CELL = "LinearPackedParamsBase", "PackedParamsBase", "CellParamsBase"
PARTS = ("ih", "hh")  # of a recurrent cell: the weights of its inputs and of its state
ops = torch.ops.quantized


def is_packed(value: Any) -> bool:
    """Return whether a value of a state dict is an object of TorchScript."""
    return isinstance(value, torch.ScriptObject)


def unpacked(packed: Any) -> dict[str, Tensor]:
    """Return the tensors of a packed weight by name. Raises TypeError if its kind is not known."""
    kind = _kind(packed)
    if kind.endswith(CELL):
        return {
            f"{part}/{name}": tensor
            for part, weight in zip(PARTS, _state(packed)[4], strict=True)
            for name, tensor in unpacked(weight).items()
        }
    if kind.endswith(LINEAR):
        weight, bias = _state(packed)
    elif (dimensions := _dimensions(kind)) is not None:
        weight, bias = getattr(ops, f"conv{dimensions}d_unpack")(packed)
    else:
        raise TypeError(f"weights that are packed as {kind} cannot be stored")
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias.detach()}


def packed_again(tensors: Mapping[str, Tensor], like: Any) -> Any:
    """Pack the result of `unpacked`; `like` is an object of the same kind and settings."""
    kind = _kind(like)
    if kind.endswith(CELL):
        return _cell(tensors, like)
    weight, bias = tensors["weight"], tensors.get("bias")
    if kind.endswith(LINEAR):
        return (ops.linear_prepack if weight.is_quantized else ops.linear_prepack_fp16)(weight, bias)
    dimensions = _dimensions(kind)
    settings = [getattr(ops, f"conv{dimensions}d_{name}")(like) for name in ("stride", "padding", "dilation", "groups")]
    return getattr(ops, f"conv{dimensions}d_prepack")(weight, bias, *settings)


def _cell(tensors: Mapping[str, Tensor], like: Any) -> Any:
    name, _, _, reduced, weights = _state(like)
    given = [
        {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{part}/")}
        for part in PARTS
    ]
    inputs, state = (packed_again(own, weight) for own, weight in zip(given, weights, strict=True))
    if name == "quantized_fp16":
        return ops.make_quantized_cell_params_fp16(inputs, state)
    biases = (own["bias"] for own in given)
    return ops.make_quantized_cell_params_dynamic(inputs, state, *biases, bool(reduced[0]))


def _kind(packed: Any) -> str:
    return str(packed._type().qualified_name())


def _dimensions(kind: str) -> int | None:
    """Return the dimensions of a convolution, None if it is none."""
    return next((count for count in (2, 3) if kind.endswith(f"Conv{count}d{CONVOLUTION}")), None)


def _state(packed: Any) -> Any:
    return packed.__getstate__()[0]

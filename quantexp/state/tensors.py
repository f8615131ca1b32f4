"""The state of a model as plain tensors: tensor subclasses are split into named parts.

A weight that torchao quantized consists of several tensors: `layers.0.weight` is stored as
`layers.0.weight/qdata` and `layers.0.weight/scale`. Its other properties follow from the structure of the model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def flat_state(model: nn.Module) -> dict[str, Any]:
    """Return the state dict of `model` with its tensor subclasses split into plain tensors."""
    state = model.state_dict()
    for name in [name for name, value in state.items() if is_traceable_wrapper_subclass(value)]:
        state.update(parts(name, state.pop(name)))
    return state


@torch.no_grad()
def fill(model: nn.Module, state: dict[str, Any]) -> None:
    """Fill `model` with a result of `flat_state`. Raises ValueError or RuntimeError if it has another structure."""
    merged = OrderedDict(state)
    merged._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]  # versions of the modules of PyTorch's own quantization
    for name, value in model.state_dict().items():
        if not is_traceable_wrapper_subclass(value):
            continue
        for part, tensor in parts(name, value):
            found = merged.pop(part, None)
            if found is None or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(f"{part} must be {tensor.dtype} of shape {tuple(tensor.shape)}")
            tensor.copy_(found)
        merged[name] = value
    model.load_state_dict(merged)


def parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the plain tensors that a value of a state dict consists of, with their names; other values unchanged."""
    if not is_traceable_wrapper_subclass(value):
        yield name, value
        return
    for inner in value.__tensor_flatten__()[0]:
        yield from parts(f"{name}/{inner}", getattr(value, inner))

"""The state of a model as plain tensors, those that are more than that taken apart by name.

A weight that torchao quantized is a tensor made of tensors: `layers.0.weight` is kept as
`layers.0.weight/qdata` and `layers.0.weight/scale`. Whatever else it knows is of its structure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def flat_state(model: nn.Module) -> dict[str, Any]:
    """Return the state dict of `model` with its composed tensors taken apart."""
    state = model.state_dict()
    for name in [name for name, value in state.items() if is_traceable_wrapper_subclass(value)]:
        state.update(parts(name, state.pop(name)))
    return state


@torch.no_grad()
def fill(model: nn.Module, state: dict[str, Any]) -> None:
    """Fill `model` with what `flat_state` gave. Raises ValueError or RuntimeError if it is not of this structure."""
    given = OrderedDict(state)
    given._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]  # versions of torch.ao's modules
    for name, value in model.state_dict().items():
        if not is_traceable_wrapper_subclass(value):
            continue
        for part, tensor in parts(name, value):
            found = given.pop(part, None)
            if found is None or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(f"{part} must be {tensor.dtype} of shape {tuple(tensor.shape)}")
            tensor.copy_(found)
        given[name] = value
    model.load_state_dict(given)


def parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the plain tensors that a value of a state dict is made of; any other value as it is."""
    if not is_traceable_wrapper_subclass(value):
        yield name, value
        return
    for inner in value.__tensor_flatten__()[0]:
        yield from parts(f"{name}/{inner}", getattr(value, inner))

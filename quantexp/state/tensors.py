"""The state of a model as plain tensors: what is no plain tensor is split into named parts.

A weight that torchao quantized consists of several tensors: `layers.0.weight` is stored as
`layers.0.weight/qdata` and `layers.0.weight/scale`, a weight that torch.ao packed as `0._packed/weight` and
`0._packed/bias`. Its other properties follow from the structure of the model. Tensors that are plain attributes are
part of the state too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from quantexp.state import attributes
from quantexp.state.packed import is_packed, packed_again, unpacked
from quantexp.state.safe_file import SafeFile


def flat_state(model: nn.Module) -> dict[str, Any]:
    """Return the state of `model` as plain tensors. Raises TypeError if part of it cannot be unpacked."""
    state = model.state_dict()
    for name in [name for name, value in state.items() if _has_parts(value)]:
        state.update(parts(name, state.pop(name)))
    state.update({name: _elements(buffer) for name, buffer in _expanded(model) if name in state})
    state.update(attributes.tensors(model))
    return state


@torch.no_grad()
def fill(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Fill `model` with a result of `flat_state`, which may be read from a file one by one.

    Raises:
        ValueError, RuntimeError: If the network has another structure.
    """
    attributes.restore_tensors(model, {name: state[name].clone() for name in state if attributes.MARK in name})
    merged = _copied_in(model, state)
    merged._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]  # versions of the modules of PyTorch's own quantization
    expanded = {name: buffer for name, buffer in _expanded(model) if name in merged}
    for name, buffer in expanded.items():
        path, _, own = name.rpartition(".")
        elements = _elements(buffer).clone()  # in the layout of the network: another can give other last bits
        elements.copy_(merged.pop(name).expand(buffer.shape)[tuple(slice(size) for size in elements.shape)])
        model.get_submodule(path)._buffers[own] = elements.expand(buffer.shape)
    for name, value in model.state_dict().items():
        if is_packed(value):
            names = [part for part in merged if part.startswith(f"{name}/")]
            packed = packed_again({part.removeprefix(f"{name}/"): merged.pop(part) for part in names}, value)
            owner = model.get_submodule(name.rpartition(".")[0])
            if isinstance(owner, fx.GraphModule):  # torch.ao stores its packed weights, but reads only some names
                setattr(owner, name.rpartition(".")[2], packed)
            else:
                merged[name] = packed
        if not is_traceable_wrapper_subclass(value):
            continue
        for part, tensor in parts(name, value):
            found = merged.pop(part, None)
            if found is None or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(f"{part} must be {tensor.dtype} of shape {tuple(tensor.shape)}")
            tensor.copy_(found)
        merged[name] = value
    missing, unexpected = model.load_state_dict(merged, strict=False)
    if unexpected or set(missing) - set(expanded):
        raise ValueError(
            f"it lacks {sorted(set(missing) - set(expanded))[:3]} and has {unexpected[:3]} beyond the network"
        )


def _copied_in(model: nn.Module, state: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Copy the plain tensors of `state` into the network one by one, so that they are not in memory together.

    Returns the state dict: with the network's own tensors in their place, and with all others as they are.
    """
    own = model.state_dict()
    merged: OrderedDict[str, Any] = OrderedDict()
    for name in state:
        place: Any = own.get(name)
        if isinstance(state, SafeFile) and _is_plain(place) and state.read_into(name, place):
            merged[name] = place
        elif attributes.MARK not in name:
            value: Any = state[name]
            alike = _is_plain(value) and _is_plain(place) and (value.shape, value.dtype) == (place.shape, place.dtype)
            alike = alike and place.is_contiguous()  # an expanded tensor has one value in several places
            merged[name] = place.copy_(value) if alike else value
    return merged


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor and value.layout is torch.strided and not value.is_quantized


def parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the plain tensors that a value of a state dict consists of, with their names; other values unchanged."""
    if is_packed(value):
        yield from ((f"{name}/{part}", tensor) for part, tensor in unpacked(value).items())
    elif is_traceable_wrapper_subclass(value):
        for inner in value.__tensor_flatten__()[0]:
            yield from parts(f"{name}/{inner}", getattr(value, inner))
    else:
        yield name, value


def _has_parts(value: Any) -> bool:
    return is_packed(value) or is_traceable_wrapper_subclass(value)


def _expanded(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers whose elements stand for several, such as a weight for each step of a sequence, by name."""
    for prefix, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, buffer in module._buffers.items():
            if isinstance(buffer, Tensor) and buffer.layout is torch.strided and _elements(buffer) is not buffer:
                yield f"{prefix}.{name}".lstrip("."), buffer


def _elements(tensor: Tensor) -> Tensor:
    """Return the elements of an expanded tensor once: dimensions along which it repeats have size 1."""
    for dimension, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            tensor = tensor.narrow(dimension, 0, 1)
    return tensor

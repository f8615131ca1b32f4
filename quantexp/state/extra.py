"""The extra state of modules, which is no tensor, beside tensors in one file, stored and read without unpickling."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

EXTRA = "/extra"  # the name of the bytes of the extra state; names in a state dict have no slash


def tensors_only(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state dict with all values that are no tensors in one tensor of bytes.

    Raises:
        TypeError: If one of them cannot be read again without unpickling.
    """
    tensors = apart({name: value for name, value in state.items() if isinstance(value, Tensor)})
    if extra := {name: value for name, value in state.items() if name not in tensors}:
        buffer = io.BytesIO()
        try:
            torch.save(extra, buffer)
            _read(buffer.getvalue())
        except Exception as error:  # pickling and reading can raise anything
            raise TypeError(
                f"extra state must be tensors, numbers, text, or lists and dicts of them, {min(extra)} is not"
            ) from error
        tensors[EXTRA] = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    return tensors


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as safetensors stores them, contiguous and each in memory of its own; copied where they are not.

    A tensor that is tied, or a part of another one, is stored under each of its names.
    """
    places: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        value = tensor.detach()
        place = _own_place(value)
        if place is None or place in places:
            value = value.clone().contiguous()
        else:
            places.add(place)
        found[name] = value
    return found


def _own_place(tensor: Tensor) -> int | None:
    """Return where a contiguous tensor lies that has all of its memory; None for others."""
    if tensor.layout is not torch.strided or not tensor.is_contiguous():
        return None
    storage = tensor.untyped_storage()
    return storage.data_ptr() if storage.nbytes() == tensor.nbytes else None


def with_extra(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the state dict that `tensors_only` was given."""
    state: dict[str, Any] = {name: value for name, value in tensors.items() if name != EXTRA}
    return state | (_read(tensors[EXTRA].numpy().tobytes()) if EXTRA in tensors else {})


def _read(stored: bytes) -> dict[str, Any]:
    extra: dict[str, Any] = torch.load(io.BytesIO(stored), weights_only=True)
    return extra

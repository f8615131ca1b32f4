"""Batches: tuples of tensors. They are generated from input specs, and described by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from quantexp.results import InputSpec

Batch: TypeAlias = tuple[Tensor, ...]
"""The inputs of a call `model(*batch)`; the first dimension of each tensor is the examples."""


def examples(specs: Sequence[InputSpec], count: int, seed: int = 0) -> Batch:
    """Return `count` valid examples, drawn with `seed`: integers in range, masks that begin with ones, floats."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(_drawn(spec, (count, *spec.measured), draw) for spec in specs)


def described(batch: Batch, names: Sequence[str] = ()) -> tuple[InputSpec, ...]:
    """Return the specs of a batch: shapes, dtypes, and the ranges of integers.

    Args:
        batch: All examples, so that the ranges of integers are complete.
        names: The names of the tensors; default: input0, input1, ...
    """
    specs = []
    for index, tensor in enumerate(batch):
        name = names[index] if index < len(names) else f"input{index}"
        dtype = str(tensor.dtype).removeprefix("torch.")
        integer = not tensor.is_floating_point() and tensor.dtype is not torch.bool
        low, high = (float(tensor.min()), float(tensor.max())) if integer and tensor.numel() else (None, None)
        specs.append(InputSpec(name, tuple(tensor.shape[1:]), dtype, low, high))
    return tuple(specs)


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return the batch with its floating-point tensors in `dtype`; other tensors are unchanged."""
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in batch)


def size(batch: Batch) -> int:
    """Return the number of examples in a batch."""
    return len(batch[0])


def _drawn(spec: InputSpec, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)  # InputSpec has checked the name
    is_mask = spec.dtype == "bool" or (not dtype.is_floating_point and (spec.low, spec.high) == (0, 1))
    if is_mask and len(shape) > 1:  # like masks of padding: at least one 1, then zeros
        ones = torch.randint(1, shape[-1] + 1, (*shape[:-1], 1), generator=draw)
        return (torch.arange(shape[-1]) < ones).to(dtype)
    if dtype.is_floating_point:
        if spec.low is None or spec.high is None:
            values = torch.randn(shape, generator=draw)
            bounded = (spec.low, spec.high) != (None, None)
            return values.clamp(spec.low, spec.high) if bounded else values
        return (spec.low + (spec.high - spec.low) * torch.rand(shape, generator=draw)).to(dtype)
    low, high = int(spec.low or 0), int(1 if spec.high is None else spec.high)
    return torch.randint(low, high + 1, shape, generator=draw).to(dtype)

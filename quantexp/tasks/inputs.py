"""Batches: tuples of tensors, made as input specs say, or described by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from quantexp.results import InputSpec

Batch: TypeAlias = tuple[Tensor, ...]
"""What a network is called with, as `model(*batch)`; the first dimension of each tensor is that of the examples."""


def examples(specs: Sequence[InputSpec], count: int, seed: int = 0) -> Batch:
    """Return `count` valid examples, drawn with `seed`: integers in range, masks that begin with ones, any floats."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(_drawn(spec, (count, *spec.measured), draw) for spec in specs)


def described(batch: Batch, names: Sequence[str] = ()) -> tuple[InputSpec, ...]:
    """Return specs of a batch: its shapes and dtypes, the ranges of its integers.

    Args:
        batch: All examples that there are, as integers out of range would break a network.
        names: Of the tensors; numbers where there are none.
    """
    specs = []
    for at, tensor in enumerate(batch):
        name = names[at] if at < len(names) else f"input{at}"
        dtype = str(tensor.dtype).removeprefix("torch.")
        whole = not tensor.is_floating_point() and tensor.dtype is not torch.bool
        low, high = (float(tensor.min()), float(tensor.max())) if whole and tensor.numel() else (None, None)
        specs.append(InputSpec(name, tuple(tensor.shape[1:]), dtype, low, high))
    return tuple(specs)


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return the batch with its floating-point tensors in `dtype`; token ids stay what they are."""
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in batch)


def size(batch: Batch) -> int:
    """Return how many examples a batch has."""
    return len(batch[0])


def _drawn(spec: InputSpec, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)  # InputSpec has checked the name
    is_mask = spec.dtype == "bool" or (not dtype.is_floating_point and (spec.low, spec.high) == (0, 1))
    if is_mask and len(shape) > 1:  # as padding leaves them: ones, then zeros, at least a one
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

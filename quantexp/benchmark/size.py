"""The size of a network in bytes: on disk and in memory."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from quantexp.quant.inspection.layers import held_as, held_weights
from quantexp.quant.inspection.watch import NAMES
from quantexp.results import Size
from quantexp.state.tensors import parts

BY_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams)


def size(model: nn.Module, stored: Path | None, exported: bytes | None = None) -> Size:
    """Return the size of a network.

    Args:
        model: The network as a module.
        stored: The folder with the stored network, None if it could not be stored.
        exported: The file that its runtime executes and that is shipped, None if it executes the module.
    """
    stored_bytes = sum(path.stat().st_size for path in stored.iterdir()) if stored else None
    shipped = len(exported) if exported else state_bytes(model)
    return Size(shipped, stored_bytes, weight_bytes(model), parameter_count(model))


def state_bytes(model: nn.Module) -> int:
    """Return the bytes of the file that `torch.save(model.state_dict())` writes."""
    counted = _Counter()
    torch.save(model.state_dict(), cast(IO[bytes], counted))
    return counted.bytes


class _Counter(io.RawIOBase):
    """A file that only counts what is written to it."""

    def __init__(self) -> None:
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        written = memoryview(content).nbytes
        self.bytes += written
        return written


def weight_bytes(model: nn.Module) -> dict[str, int]:
    """Return the bytes of weights, biases, scales and zero points in memory, by the dtype they are held in.

    Padding that a kernel library adds to packed weights is not known and not counted.
    """
    held: Counter[str] = Counter()
    for whole in [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.numel())]:
        for name, tensor in parts("", whole):
            dtype = held_as(whole)[0] if name == "/qdata" else tensor.dtype
            held[_name(dtype)] += tensor.nbytes
    for layer in held_weights(model, packed=True):
        held[_name(layer.dtype)] += sum(weight.numel() for weight in layer.weights) * layer.dtype.itemsize
        scales = [tensor for weight in layer.weights for tensor in _channel_parameters(weight)]
        for tensor in (*layer.biases, *scales):
            held[_name(tensor.dtype)] += tensor.nbytes
    return dict(sorted(held.items()))


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters, including those that are packed inside quantized layers, or in files."""
    if isinstance(in_files := getattr(model, "parameters_in_files", None), int):
        return in_files
    packed = sum(
        tensor.numel() for layer in held_weights(model, packed=True) for tensor in (*layer.weights, *layer.biases)
    )
    return packed + sum(parameter.numel() for parameter in model.parameters())


def _channel_parameters(weight: Tensor) -> tuple[Tensor, ...]:
    if weight.is_quantized and weight.qscheme() in BY_CHANNEL:
        return weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
    return ()


def _name(dtype: torch.dtype) -> str:
    return NAMES.get(dtype, str(dtype).removeprefix("torch."))

"""The signal-to-quantization-noise ratio (SQNR) of values and their reference."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = 2**17  # values that are converted to double precision at once


def sqnr_db(reference: Tensor, quantized: Tensor) -> float | None:
    """Return the SQNR in dB: the energy of `reference` divided by the energy of the difference.

    The result is None if it is not finite, as when there is no difference.
    """
    return decibels(*energies(reference, quantized))


def energies(reference: Tensor, quantized: Tensor) -> tuple[float, float]:
    """Return the energies of `reference` and of the difference; the sums over batches are those of the whole."""
    signal = noise = 0.0
    for one, other in _pieces(reference, quantized):
        signal += one.square().sum().item()
        noise += (one - other).square().sum().item()
    return signal, noise


def absolute_errors(reference: Tensor, quantized: Tensor) -> tuple[float, float]:
    """Return the mean and the largest absolute difference; NaN or infinity if a value is, NaN if there are none."""
    if not reference.numel():
        return math.nan, math.nan
    total, most = 0.0, 0.0
    for one, other in _pieces(reference, quantized):
        error = (one - other).abs()
        total += error.sum().item()
        most = max(most, error.max().item())
    return (total / reference.numel(), most) if math.isfinite(total) else (total, total)


def _pieces(reference: Tensor, quantized: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both tensors in double precision, piece by piece: whole they would take several times their memory."""
    flat = (torch.split(tensor.reshape(-1), PIECE) for tensor in (reference, quantized))
    for one, other in zip(*flat, strict=True):
        yield one.double(), other.double()


def decibels(signal: float, noise: float) -> float | None:
    """Return the ratio of two energies in dB, None if it is not finite."""
    return finite(10 * math.log10(signal / noise)) if signal > 0 and 0 < noise < math.inf else None


def compared(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """Return the largest difference, and the SQNR in dB: infinite without a difference.

    Values that are not finite must be equal; if one differs, the SQNR is NaN or minus infinity. Tensors of different
    shapes differ without bounds.
    """
    if expected.shape != found.shape:
        return math.inf, -math.inf
    expected, found = expected.double(), found.double()
    same = (expected == found) | (expected.isnan() & found.isnan())
    noise = (expected - found).masked_fill(same, 0.0)
    signal = expected.masked_fill(same & ~expected.isfinite(), 0.0)
    if not torch.any(noise != 0):
        return 0.0, math.inf
    ratio = float(signal.square().sum() / noise.square().sum())
    return float(noise.abs().max()), 10 * math.log10(ratio) if ratio > 0 else -math.inf


def finite(value: float) -> float | None:
    """Return the value, or None if it is infinite or NaN."""
    return value if math.isfinite(value) else None

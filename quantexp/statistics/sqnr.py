"""The signal-to-quantization-noise ratio (SQNR) of values and their reference."""

from __future__ import annotations

import math

from torch import Tensor


def sqnr_db(reference: Tensor, quantized: Tensor) -> float | None:
    """Return the SQNR in dB: the energy of `reference` divided by the energy of the difference.

    The result is None if it is not finite, as when there is no difference.
    """
    return decibels(*energies(reference, quantized))


def energies(reference: Tensor, quantized: Tensor) -> tuple[float, float]:
    """Return the energies of `reference` and of the difference; the sums over batches are those of the whole."""
    signal = reference.double().square().sum().item()
    return signal, (reference.double() - quantized.double()).square().sum().item()


def decibels(signal: float, noise: float) -> float | None:
    """Return the ratio of two energies in dB, None if it is not finite."""
    return finite(10 * math.log10(signal / noise)) if signal > 0 and 0 < noise < math.inf else None


def finite(value: float) -> float | None:
    """Return the value, or None if it is infinite or NaN."""
    return value if math.isfinite(value) else None

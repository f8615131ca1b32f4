"""How far values are from a reference: the signal-to-quantization-noise ratio."""

from __future__ import annotations

import math

from torch import Tensor


def sqnr_db(reference: Tensor, quantized: Tensor) -> float | None:
    """Return the signal-to-quantization-noise ratio in dB: energy of `reference` over that of the difference.

    It is None where it is no finite number: without any difference there is no noise.
    """
    return decibels(*energies(reference, quantized))


def energies(reference: Tensor, quantized: Tensor) -> tuple[float, float]:
    """Return the energy of `reference` and that of the difference; those of batches add up to those of the whole."""
    signal = reference.double().square().sum().item()
    return signal, (reference.double() - quantized.double()).square().sum().item()


def decibels(signal: float, noise: float) -> float | None:
    """Return the ratio of two energies in dB, None where it is no finite number."""
    return finite(10 * math.log10(signal / noise)) if signal > 0 and 0 < noise < math.inf else None


def finite(value: float) -> float | None:
    """Return the value, None where it is infinite or no number."""
    return value if math.isfinite(value) else None

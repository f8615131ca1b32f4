"""The methods, a file each, with the same two functions.

quantize(option, work)             a new quantized network and what it cost; the float network is left as it was
skeleton(option, network, form)    the same structure without its numbers, built of a fresh float network
"""

from __future__ import annotations

from torch import nn

from quantexp.config import Quant
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods.work import Form, Work
from quantexp.system.implementation import resolve


def quantize(option: Quant, work: Work) -> Quantized:
    """Return the quantized network and what it cost. Raises QuantizationError, TrainingError."""
    quantized: Quantized = resolve(option.implementation).quantize(option, work)
    return quantized


def skeleton(option: Quant, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` in the structure that `quantize` leaves, its numbers still to be filled in."""
    built: nn.Module = resolve(option.implementation).skeleton(option, network, form)
    return built

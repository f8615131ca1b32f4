"""The quantization methods. There is one module for each, with the same two functions.

quantize(option, work)             a new quantized network and its cost; the float network is not changed
skeleton(option, network, form)    the same structure with other numbers, built from a fresh float network
"""

from __future__ import annotations

from torch import nn

from quantexp.config import Quant
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods.work import Form, Work
from quantexp.system.implementation import resolve


def quantize(option: Quant, work: Work) -> Quantized:
    """Return the quantized network and its cost. Raises QuantizationError, TrainingError."""
    quantized: Quantized = resolve(option.implementation).quantize(option, work)
    return quantized


def skeleton(option: Quant, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with the structure that `quantize` creates; its state is filled in later."""
    built: nn.Module = resolve(option.implementation).skeleton(option, network, form)
    return built

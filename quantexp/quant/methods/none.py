"""No quantization: the float model itself, or its weights cast to a 16-bit float (the quick `half()`)."""

from __future__ import annotations

import copy

import torch
from torch import nn

from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.casting import Cast
from quantexp.training.baseline import Baseline

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def apply(baseline: Baseline, precision: str) -> Quantized:
    """Return the float model as it is, or a copy with its weights cast."""
    if precision == "fp32":
        return Quantized(baseline.model, None)
    promise = Promise("every layer with floating-point weights", layers=precision, operators=precision)
    return Quantized(skeleton(copy.deepcopy(baseline.model), precision), promise)


def skeleton(model: nn.Module, precision: str) -> nn.Module:
    """Return `model` in the structure that `apply` leaves."""
    return model if precision == "fp32" else Cast(model, DTYPES[precision])

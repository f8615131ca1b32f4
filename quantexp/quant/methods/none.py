"""No quantization: the float network itself, or a copy with weights cast to a 16-bit float, as `half()` does."""

from __future__ import annotations

import torch
from torch import nn

from quantexp.config import NoQuant
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.casting import Cast
from quantexp.quant.methods.work import Form, Work
from quantexp.state.copies import copied, materialized

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def quantize(option: NoQuant, work: Work) -> Quantized:
    """Return the float network unchanged, or a copy with its weights cast."""
    precision = work.form.precision
    if precision == "fp32":
        return Quantized(work.baseline.model, None)
    promise = Promise("every layer with floating-point weights", layers=precision, operators=precision)
    model = skeleton(option, copied(work.baseline.model), work.form)
    return Quantized(model, promise)


def skeleton(option: NoQuant, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with the structure that `quantize` creates."""
    return network if form.precision == "fp32" else Cast(materialized(network), DTYPES[form.precision])

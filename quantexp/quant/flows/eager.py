"""Eager mode of torch.ao, as many tutorials teach it."""

from __future__ import annotations

import torch
from torch import nn
from torch.ao import quantization

DTYPES = {"int8": torch.qint8, "fp16": torch.float16}


def quantize_dynamic(model: nn.Module, precision: str) -> nn.Module:
    """Replace the Linear layers of `model`, in place, by dynamically quantized ones."""
    quantized: nn.Module = quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
        model, {nn.Linear}, dtype=DTYPES[precision], inplace=True
    )
    return quantized

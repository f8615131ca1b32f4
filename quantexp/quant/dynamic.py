"""Dynamic quantization: weights of Linear layers beforehand, the range of their inputs at each call."""

from __future__ import annotations

import copy

from torch import nn

from quantexp.baselines import Baseline
from quantexp.config import Dynamic
from quantexp.quant.base import Promise, Quantized
from quantexp.quant.flows import eager
from quantexp.quant.flows.torch_ao import torch_ao


def apply(option: Dynamic, baseline: Baseline, precision: str) -> Quantized:
    """Quantize a copy of the float model; int8 computes in int8, fp16 stores half and computes in float."""
    promise = Promise("nn.Linear", layers=precision, operators=precision)
    return Quantized(skeleton(option, copy.deepcopy(baseline.model), precision), promise)


def skeleton(option: Dynamic, model: nn.Module, precision: str) -> nn.Module:
    """Return `model` in the structure that `apply` leaves."""
    with torch_ao(option.engine):
        return eager.quantize_dynamic(model, precision)

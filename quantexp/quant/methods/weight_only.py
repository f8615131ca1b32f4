"""Weights alone are quantized: they take less memory, and are expanded where they are multiplied with floats."""

from __future__ import annotations

import copy

from torch import nn

from quantexp.config import WeightOnly
from quantexp.quant.flows import flow_of
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.selection import kept_in_float
from quantexp.training.baseline import Baseline

OPERATORS = {"int8": None, "int4": "int4"}  # int8 weights are multiplied as floats, int4 has kernels of its own


def apply(option: WeightOnly, baseline: Baseline, precision: str) -> Quantized:
    """Quantize the weights of a copy of the float model."""
    kept = kept_in_float(option, baseline.model)
    unfit = flow_of(option).unfit(option, baseline.model, precision)
    promise = Promise("nn.Linear", precision, OPERATORS[precision], kept, unfit)
    return Quantized(skeleton(option, copy.deepcopy(baseline.model), precision), promise)


def skeleton(option: WeightOnly, model: nn.Module, precision: str) -> nn.Module:
    """Return `model` in the structure that `apply` leaves."""
    quantized: nn.Module = flow_of(option).weight_only(option, model.eval(), precision)
    return quantized

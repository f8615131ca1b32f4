"""Dynamic quantization: weights of Linear layers beforehand, the range of their inputs at each call."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from quantexp.config import Dynamic
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.working import working
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.selection import kept_in_float
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import Baseline


def apply(option: Dynamic, baseline: Baseline, data: TaskData, precision: str) -> Quantized:
    """Quantize a copy of the float model; int8 computes in int8, fp16 stores half and computes in float."""
    promise = Promise("nn.Linear", layers=precision, operators=precision, kept=kept_in_float(option, baseline.model))
    return Quantized(skeleton(option, copy.deepcopy(baseline.model), precision, data.example), promise)


def skeleton(option: Dynamic, model: nn.Module, precision: str, example: Tensor) -> nn.Module:
    """Return `model` in the structure that `apply` leaves."""
    with working(option.engine):
        quantized: nn.Module = flow_of(option).dynamic(option, model, precision, example)
        return quantized

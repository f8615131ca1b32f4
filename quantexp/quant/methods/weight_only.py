"""Weight-only quantization: weights take less memory, and are multiplied with float inputs."""

from __future__ import annotations

from torch import nn

from quantexp.config import WeightOnly
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.working import working_copy
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.work import Form, Work
from quantexp.quant.selection import kept_in_float
from quantexp.state.copies import materialized

OPERATORS = {"int8": None, "int4": "int4"}  # int8 weights are converted to float; int4 has its own kernels


def quantize(option: WeightOnly, work: Work) -> Quantized:
    """Quantize the weights of a copy of the float network."""
    model, precision = work.baseline.model, work.form.precision
    kept = kept_in_float(option, model)
    unfit = flow_of(option).unfit(option, model, precision)
    promise = Promise("nn.Linear", precision, OPERATORS[precision], kept, unfit)
    return Quantized(skeleton(option, working_copy(option, model), work.form), promise)


def skeleton(option: WeightOnly, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with the structure that `quantize` creates."""
    quantized: nn.Module = flow_of(option).weight_only(option, materialized(network).eval(), form.precision)
    return quantized

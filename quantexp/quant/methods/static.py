"""Static quantization of weights and activations, with ranges from calibration examples."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from torch import nn

from quantexp.config import Static
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.working import working, working_copy
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.work import Form, Work
from quantexp.quant.selection import dynamic_layers, kept_in_float
from quantexp.state.copies import materialized
from quantexp.system.environment import threads, usable_cores
from quantexp.tasks.inputs import Batch

log = logging.getLogger(__name__)

CALIBRATION_BATCH = 64


def quantize(option: Static, work: Work) -> Quantized:
    """Calibrate and convert a copy of the float network."""
    started = time.perf_counter()
    model, examples = work.baseline.model, work.data.calibration
    with working(option.engine), threads(usable_cores()):
        batches = (batch for batch, _ in examples.batches(CALIBRATION_BATCH))
        quantized = _quantized(option, working_copy(option, model), work.form, batches)
    seconds = time.perf_counter() - started
    log.info("calibrate %d examples of the %s split: %.1f s", len(examples), option.calibration.value, seconds)
    promise = Promise(flow_of(option).HANDLES, "int8", "int8", kept_in_float(option, model))
    return Quantized(quantized, promise, calibration_seconds=seconds)


def skeleton(option: Static, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with the structure that `quantize` creates, calibrated on the example."""
    with working(option.engine):
        return _quantized(option, network, form, [form.example])


def _quantized(option: Static, network: nn.Module, form: Form, batches: Iterable[Batch]) -> nn.Module:
    network = materialized(network)
    flow, dynamic = flow_of(option), dynamic_layers(option, network)
    prepared = flow.prepare_static(option, network, form.example, form.target)
    flow.calibrate(prepared, batches)
    converted: nn.Module = flow.convert(prepared, form.target)
    return flow.add_dynamic(converted, dynamic) if dynamic else converted

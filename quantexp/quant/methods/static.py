"""Static quantization: weights and activations, with ranges seen on calibration examples."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterable

from torch import Tensor, nn

from quantexp.config import Static
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.working import working
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.selection import dynamic_layers, kept_in_float
from quantexp.system.environment import threads, usable_cores
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import Baseline

log = logging.getLogger(__name__)

CALIBRATION_BATCH = 64


def apply(option: Static, baseline: Baseline, data: TaskData) -> Quantized:
    """Calibrate and convert a copy of the float model."""
    started = time.perf_counter()
    with working(option.engine), threads(usable_cores()):
        batches = (inputs for inputs, _ in data.calibration.batches(CALIBRATION_BATCH))
        model = _quantize(option, copy.deepcopy(baseline.model), data.example, batches)
    seconds = time.perf_counter() - started
    log.info("calibrate %d examples of the %s split: %.1f s", len(data.calibration), option.calibration.value, seconds)
    promise = Promise(flow_of(option).HANDLES, "int8", "int8", kept_in_float(option, baseline.model))
    return Quantized(model, promise, calibration_seconds=seconds)


def skeleton(option: Static, model: nn.Module, example: Tensor) -> nn.Module:
    """Return `model` in the structure that `apply` leaves, its ranges those of `example`."""
    with working(option.engine):
        return _quantize(option, model, example, [example])


def _quantize(option: Static, model: nn.Module, example: Tensor, batches: Iterable[Tensor]) -> nn.Module:
    flow, dynamically = flow_of(option), dynamic_layers(option, model)
    prepared = flow.prepare_static(option, model, example)
    flow.calibrate(prepared, batches)
    converted: nn.Module = flow.convert(prepared)
    return flow.add_dynamic(converted, dynamically) if dynamically else converted

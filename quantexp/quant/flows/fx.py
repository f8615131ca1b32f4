"""FX graph mode of torch.ao: `prepare` inserts observers or fake quant, `convert` puts integer kernels in."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    QConfig,
    QConfigMapping,
    default_per_channel_weight_observer,
    default_weight_observer,
    disable_observer,
    get_default_qat_qconfig,
    get_default_qconfig,
    get_default_qconfig_mapping,
)
from torch.ao.quantization.fake_quantize import default_fused_wt_fake_quant
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx

from quantexp.config import Engine, Granularity, Observer
from quantexp.environment import FOR_PRECISION, describe
from quantexp.quant.flows.fake_quant import weight_fake_quant

log = logging.getLogger(__name__)

OBSERVERS: dict[Observer, Any] = {
    Observer.histogram: HistogramObserver,
    Observer.minmax: MinMaxObserver,
    Observer.moving_average: MovingAverageMinMaxObserver,
}


def prepare_static(
    model: nn.Module, example: Tensor, *, engine: Engine, observer: Observer, weights: Granularity
) -> nn.Module:
    """Insert observers into `model`, which must be in evaluation mode. `example` is one batch of inputs."""
    _warn_of_saturation(engine)
    # torch's own choice for the engine says whether activations leave one bit unused (reduce_range),
    # without which instruction sets before VNNI overflow.
    reduce_range = get_default_qconfig(engine.value).activation().reduce_range  # type: ignore[no-untyped-call]
    activation = OBSERVERS[observer].with_args(dtype=torch.quint8, reduce_range=reduce_range)
    weight = {
        Granularity.per_channel: default_per_channel_weight_observer,
        Granularity.per_tensor: default_weight_observer,
    }[weights]
    return prepare_fx(model, _mapping(activation, weight, engine), (example,))


def prepare_qat(model: nn.Module, example: Tensor, *, engine: Engine, weights: Granularity) -> nn.Module:
    """Insert fake quant into `model`, which must be in training mode."""
    _warn_of_saturation(engine)
    default = get_default_qat_qconfig(engine.value)  # type: ignore[no-untyped-call]
    weight = weight_fake_quant if weights is Granularity.per_channel else default_fused_wt_fake_quant
    return prepare_qat_fx(model, _mapping(default.activation, weight, engine), (example,))


def freeze_observers(prepared: nn.Module) -> None:
    """Keep the ranges that fake quant has found so far."""
    prepared.apply(disable_observer)


@torch.no_grad()
def calibrate(prepared: nn.Module, batches: Iterable[Tensor]) -> None:
    """Show the batches to the observers."""
    for inputs in batches:
        prepared(inputs)


def convert(prepared: nn.Module) -> nn.Module:
    """Replace what was observed by integer kernels."""
    converted: nn.Module = convert_fx(prepared.eval())  # type: ignore[arg-type]
    return converted


def _warn_of_saturation(engine: Engine) -> None:
    if engine is Engine.onednn and not set(describe().instruction_sets) & set(FOR_PRECISION["int8"]):
        log.warning("onednn uses all bits of the activations: without VNNI sums may saturate and cost accuracy")


def _mapping(activation: Any, weight: Any, engine: Engine) -> QConfigMapping:
    qconfig = QConfig(activation, weight)  # type: ignore[no-untyped-call]
    # The default mapping carries the fixed ranges of sigmoid and its like; only the general rule is ours.
    return get_default_qconfig_mapping(engine.value).set_global(qconfig)

"""The qconfigs of torch.ao for the options: observers or fake quant of activations and weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.ao.quantization import (
    FusedMovingAvgObsFakeQuantize,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    QConfig,
    default_dynamic_qconfig,
    default_per_channel_weight_observer,
    default_weight_observer,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    per_channel_dynamic_qconfig,
)
from torch.ao.quantization.fake_quantize import default_fused_wt_fake_quant

from quantexp.config import Granularity, Observer, Qat, Scheme, Static
from quantexp.quant.arithmetic.percentile import percentile_range
from quantexp.quant.engine import reduces_range
from quantexp.quant.flows.fake_quant import weight_fake_quant

SCHEMES = {Scheme.affine: torch.per_tensor_affine, Scheme.symmetric: torch.per_tensor_symmetric}
WEIGHT_OBSERVERS = {
    Granularity.per_channel: default_per_channel_weight_observer,
    Granularity.per_tensor: default_weight_observer,
}
WEIGHT_FAKE_QUANT = {
    Granularity.per_channel: weight_fake_quant,
    Granularity.per_tensor: default_fused_wt_fake_quant,
}
DYNAMIC = {Granularity.per_channel: per_channel_dynamic_qconfig, Granularity.per_tensor: default_dynamic_qconfig}
EMBEDDING = float_qparams_weight_only_qconfig


class PercentileObserver(HistogramObserver):
    """An observer whose range contains `percentile` percent of the values."""

    def __init__(self, percentile: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.percentile = percentile

    def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
        return percentile_range(self.histogram, self.min_val, self.max_val, self.percentile)


OBSERVERS: dict[Observer, Any] = {
    Observer.histogram: HistogramObserver,
    Observer.minmax: MinMaxObserver,
    Observer.moving_average: MovingAverageMinMaxObserver,
    Observer.percentile: PercentileObserver,
}


def dynamic_qconfig(precision: str, granularity: Granularity) -> QConfig:
    """Return the qconfig of dynamic quantization; in fp16 there are no scales."""
    return float16_dynamic_qconfig if precision == "fp16" else DYNAMIC[granularity]


def static_qconfig(option: Static, model: nn.Module) -> QConfig:
    """Return the qconfig with the observers for the calibration of `model`."""
    settings = _activations(option, model)
    if option.observer is Observer.percentile:
        settings["percentile"] = option.percentile
    return _qconfig(OBSERVERS[option.observer].with_args(**settings), WEIGHT_OBSERVERS[option.weights])


def qat_qconfig(option: Qat, model: nn.Module) -> QConfig:
    """Return the qconfig with the fake quant for quantization-aware training of `model`."""
    fake = FusedMovingAvgObsFakeQuantize.with_args(  # type: ignore[no-untyped-call]
        observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255, **_activations(option, model)
    )
    return _qconfig(fake, WEIGHT_FAKE_QUANT[option.weights])


def _activations(option: Static | Qat, model: nn.Module) -> dict[str, Any]:
    reduce_range = reduces_range(option.engine, option.reduce_range, model)
    return {"dtype": torch.quint8, "qscheme": SCHEMES[option.activations], "reduce_range": reduce_range}


def _qconfig(activation: Any, weight: Any) -> QConfig:
    return QConfig(activation, weight)  # type: ignore[no-untyped-call]

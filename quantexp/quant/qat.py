"""Quantization-aware training: fake quantization in the loop, then the integer kernels.

The schedule: from the trained float model, one pass with a tenth of its learning rate, so that the
network settles on the grid of int8 without unlearning; from scratch, the recipe of the float model.
After a share of the steps the observers freeze, so that the last steps train against the ranges that
the converted model will have.
"""

from __future__ import annotations

import copy
import dataclasses

from torch import Tensor, nn

from quantexp.baselines import Baseline
from quantexp.config import Qat, Start, Train
from quantexp.quant.base import Promise, Quantized
from quantexp.quant.flows.torch_ao import torch_ao
from quantexp.report.results import Training
from quantexp.tasks.base import TaskData
from quantexp.train import fit

FINE_TUNING_SHARE = 0.1  # of the float model's learning rate


def recipe(option: Qat, train: Train) -> Train:
    """Return the recipe of the training with fake quantization."""
    from_trained = option.start is Start.trained
    epochs = option.epochs or (1 if from_trained else train.epochs)
    rate = option.learning_rate or train.learning_rate * (FINE_TUNING_SHARE if from_trained else 1.0)
    return dataclasses.replace(train, epochs=epochs, learning_rate=rate)


def apply(option: Qat, baseline: Baseline, data: TaskData, train: Train) -> Quantized:
    """Train a copy of the float model, or a fresh one, with fake quantization, and convert it."""
    from quantexp.quant.flows import fx

    schedule = recipe(option, train)

    def build() -> nn.Module:
        begin = copy.deepcopy(baseline.model) if option.start is Start.trained else baseline.fresh()
        return _prepare(option, begin, data.example)

    def run_training(prepared: nn.Module) -> Training:
        def freeze(step: int, steps: int) -> None:
            if step == int(steps * option.freeze_after):
                fx.freeze_observers(prepared)

        return fit(prepared, data.train, schedule, seed=baseline.seed, label=f"qat {option.engine}", on_step=freeze)

    extra = {
        "quant": {
            "engine": option.engine.value,
            "weights": option.weights.value,
            "start": option.start.value,
            "freeze_after": option.freeze_after,
        },
        "from": baseline.key if option.start is Start.trained else None,
    }
    with torch_ao(option.engine):
        trained = baseline.trained_once("qat", schedule, extra, build, run_training)
        model = fx.convert(trained.model)
    return Quantized(model, Promise("the layers that FX can lower", "int8", "int8"), training=trained.training)


def skeleton(option: Qat, model: nn.Module, example: Tensor) -> nn.Module:
    """Return `model` in the structure that `apply` leaves, its ranges those of `example`."""
    from quantexp.quant.flows import fx

    with torch_ao(option.engine):
        prepared = _prepare(option, model, example)
        fx.calibrate(prepared, [example])
        return fx.convert(prepared)


def _prepare(option: Qat, model: nn.Module, example: Tensor) -> nn.Module:
    from quantexp.quant.flows import fx

    return fx.prepare_qat(model.train(), example, engine=option.engine, weights=option.weights)

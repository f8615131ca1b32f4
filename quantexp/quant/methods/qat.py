"""Quantization-aware training: fake quantization in the loop, then the integer kernels.

The schedule: from the trained float model, one pass with a tenth of its learning rate, so that the
network settles on the grid of int8 without unlearning; from scratch, the recipe of the float model.
After a share of the steps the observers freeze, so that the last steps train against the ranges that
the converted model will have.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import nn

from quantexp.config import WEIGHTS, Qat, Start, Train
from quantexp.quant.engine import reduces_range
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.working import working
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.work import Form, Work
from quantexp.quant.selection import kept_in_float
from quantexp.results import Training
from quantexp.training.loop import fit

FINE_TUNING_SHARE = 0.1  # of the float model's learning rate


def recipe(option: Qat, train: Train) -> Train:
    """Return the recipe of the training with fake quantization."""
    from_trained = option.start is Start.trained
    epochs = option.epochs or (1 if from_trained else train.epochs)
    rate = option.learning_rate or train.learning_rate * (FINE_TUNING_SHARE if from_trained else 1.0)
    return dataclasses.replace(train, epochs=epochs, learning_rate=rate)


def quantize(option: Qat, work: Work) -> Quantized:
    """Train a copy of the float model, or a fresh one, with fake quantization, and convert it."""
    flow, schedule, baseline, data = flow_of(option), recipe(option, work.train), work.baseline, work.data

    def build() -> nn.Module:
        begin = copy.deepcopy(baseline.model) if option.start is Start.trained else baseline.fresh()
        prepared: nn.Module = flow.prepare_qat(option, begin, work.form.example)
        return prepared

    def run_training(prepared: nn.Module) -> Training:
        with torch.no_grad():  # what cannot be converted, or not run, is better known before training
            skeleton(option, copy.deepcopy(baseline.model), work.form)(*work.form.example)

        def freeze(step: int, steps: int) -> None:
            if step == int(steps * option.freeze_after):
                flow.freeze_observers(prepared)

        label = f"qat {option.flow}"
        return fit(prepared, data.train, data.objective, schedule, seed=baseline.seed, label=label, on_step=freeze)

    kept = kept_in_float(option, baseline.model)
    extra = {"quant": _key(option, sorted(kept)), "from": baseline.key if option.start is Start.trained else None}
    with working(option.engine):
        trained = baseline.trained_once("qat", schedule, extra, build, run_training)
        model = flow.convert(trained.model, work.form.target)
    return Quantized(model, Promise(flow.HANDLES, "int8", "int8", kept), training=trained.training)


def skeleton(option: Qat, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` in the structure that `quantize` leaves, its ranges those of the example."""
    flow = flow_of(option)
    with working(option.engine):
        prepared = flow.prepare_qat(option, network, form.example)
        flow.calibrate(prepared, [form.example])
        converted: nn.Module = flow.convert(prepared, form.target)
        return converted


def _key(option: Qat, kept: list[str]) -> dict[str, Any]:
    """Return what of the option shapes the weights, resolved: patterns of layers to the layers that they leave out.

    Epochs and learning rate are those of the schedule, which is in the key itself.
    """
    settings = option.settings(WEIGHTS)
    for name in ("include", "exclude", "epochs", "learning_rate"):
        del settings[name]
    return {**settings, "kept": kept, "reduce_range": reduces_range(option.engine, option.reduce_range)}

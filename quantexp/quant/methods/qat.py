"""Quantization-aware training (QAT): the network is trained with fake quantization, then converted to int8 kernels.

The default schedule is one epoch with a tenth of the learning rate, from the trained float network, so that the weights
adapt to the grid of int8 but change little. From scratch, it is the recipe of the float network. After a share of the
steps the observers are frozen, so that the last steps train with the ranges of the converted network.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from quantexp.config import Executorch, Qat, Start, Train
from quantexp.quant.engine import reduces_range
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.dead_channels import divisible
from quantexp.quant.flows.working import explain_failure, working
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.work import Form, Work, weight_settings
from quantexp.quant.selection import kept_in_float
from quantexp.results import Training
from quantexp.state.copies import copied, materialized
from quantexp.training.loop import fit

FINE_TUNING_SHARE = 0.1  # of the learning rate of the float network
COMPARED = 16  # examples on which the network is compared before and after its conversion


def recipe(option: Qat, train: Train) -> Train:
    """Return the recipe of the training with fake quantization."""
    from_trained = option.start is Start.trained
    epochs = option.epochs or (1 if from_trained else train.epochs)
    rate = option.learning_rate or train.learning_rate * (FINE_TUNING_SHARE if from_trained else 1.0)
    return dataclasses.replace(train, epochs=epochs, learning_rate=rate)


def quantize(option: Qat, work: Work) -> Quantized:
    """Train a copy of the float network, or a fresh network, with fake quantization, and convert it."""
    flow, schedule, baseline, data = flow_of(option), recipe(option, work.train), work.baseline, work.data

    def build() -> nn.Module:
        """Return the prepared network with its initial weights."""
        initial = copied(baseline.model) if option.start is Start.trained else baseline.fresh()
        prepared: nn.Module = flow.prepare_qat(
            option, divisible(materialized(initial)), work.form.example, work.form.target
        )
        return prepared

    def run_training(prepared: nn.Module) -> Training:
        """Train the prepared network; the observers freeze after a share of the steps."""
        with torch.no_grad():  # a network that cannot be converted or run must fail before training
            skeleton(option, copied(baseline.model), work.form)(*work.form.example)

        def freeze(step: int, steps: int) -> None:
            if step == int(steps * option.freeze_after):
                flow.freeze_observers(prepared)

        label = f"qat {option.flow}"
        return fit(
            prepared,
            data.train,
            data.objective,
            schedule,
            seed=baseline.seed,
            label=label,
            on_step=freeze,
            shorten=False,
        )

    kept = kept_in_float(option, baseline.model)
    extra = {
        "quant": _key(option, work.form, baseline.model, sorted(kept)),
        "from": baseline.key if option.start is Start.trained else None,
    }
    with working(option.engine):
        trained = baseline.trained_once("qat", schedule, extra, build, run_training)
        flow.freeze_observers(trained.model.eval())
        batch = data.calibration.some(COMPARED)
        with torch.no_grad():
            simulated = batch, trained.model(*batch)
        model = flow.convert(trained.model, work.form.target)
    promise = Promise(flow.HANDLES, "int8", "int8", kept)
    return Quantized(model, promise, training=trained.training, simulated=simulated)


def unrounded(option: Qat, network: nn.Module, form: Form) -> nn.Module:
    """Return a copy of `network` as it is trained, in evaluation mode and without rounding: what it is in float."""
    flow = flow_of(option)
    with working(option.engine):
        prepared: nn.Module = flow.prepare_qat(
            option, divisible(materialized(copied(network))), form.example, form.target
        )
        with torch.no_grad(), explain_failure(f"quant=qat quant.flow={option.flow} needs a network that it can run"):
            copied(prepared).eval()(*form.example)
    module: Any
    for module in prepared.eval().modules():
        if hasattr(module, "disable_fake_quant"):  # torch.ao and torchao have classes of their own
            module.disable_fake_quant()
            module.disable_observer()
    return prepared


def skeleton(option: Qat, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with the structure that `quantize` creates, calibrated on the example."""
    flow = flow_of(option)
    with working(option.engine):
        prepared = flow.prepare_qat(option, divisible(materialized(network)), form.example, form.target)
        flow.calibrate(prepared, [form.example])
        converted: nn.Module = flow.convert(prepared, form.target)
        return converted


def _key(option: Qat, form: Form, model: nn.Module, kept: list[str]) -> dict[str, Any]:
    """Return the settings that affect the weights; the patterns of layers are resolved to the layers left in float.

    Epochs and learning rate are already in the key, as part of the schedule. The target is in it where the network is
    trained with another quantizer for it.
    """
    settings = weight_settings(option, form)
    for name in ("include", "exclude", "epochs", "learning_rate"):
        del settings[name]
    reduced = reduces_range(option.engine, option.reduce_range, model)
    target = {"target": form.target} if form.target == Executorch.target else {}
    return {**settings, **target, "kept": kept, "reduce_range": reduced}

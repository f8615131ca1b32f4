"""Fake quantization to a few bits: values are rounded to a grid of b bits, and the computation is in float.

    fake_quant(x) = scale · (clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point)

Weights are symmetric, quant_min = -2^(b-1) and scale = max|w| / (2^(b-1) - 1), and are stored
rounded. The inputs of each layer are affine, on 0 to 2^b - 1, with ranges from calibration. One bit has two levels:
`rounded_layers`. With `quant.train` the weights are trained with all of this in the loop, from the float network, and
rounded again at the end. This shows the accuracy at a number of bits. There are no kernels for it, so it shows neither
size nor speed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import RESULT, WEIGHTS, FakeQuant, Train
from quantexp.quant.flows.attention import call_all_layers
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.rounded_layers import LAYERS, FakeQuantized, Learning, round_weight
from quantexp.quant.methods.static import CALIBRATION_BATCH
from quantexp.quant.methods.work import Form, Work
from quantexp.quant.selection import kept_in_float
from quantexp.results import Training
from quantexp.state.copies import copied, materialized
from quantexp.system.environment import threads, usable_cores
from quantexp.system.errors import QuantizationError
from quantexp.tasks.inputs import Batch
from quantexp.training.cache import Trained
from quantexp.training.loop import fit

HANDLES = "nn.Linear, nn.Conv1d and nn.Conv2d"
NOT_CALLED = "the network does not call it but computes with its weight, so its inputs cannot be rounded"


def recipe(option: FakeQuant, train: Train) -> Train:
    """Return the recipe of the training with rounded values."""
    epochs, rate = option.epochs or 1, option.learning_rate or train.learning_rate
    return dataclasses.replace(train, epochs=epochs, learning_rate=rate)


def quantize(option: FakeQuant, work: Work) -> Quantized:
    """Round the weights of a copy of the float network, and its activations with ranges from calibration."""
    model = _ready(copied(work.baseline.model))
    kept = kept_in_float(option, model)
    layers = _layers(option, model, work.form.example)
    unfit = {name: NOT_CALLED for name in _candidates(model) if name not in (*layers, *kept)}
    promise = Promise(HANDLES, layers="simulated", kept=kept, unfit=unfit)
    if option.train:
        trained = _trained(option, work, layers)
        return Quantized(_learned(option, work.form, layers, trained.model), promise, training=trained.training)
    started = time.perf_counter()
    inputs = _calibrated(model, layers, work)
    model = skeleton(option, model, work.form)
    _cover(model, inputs, option.percentile)
    return Quantized(model, promise, calibration_seconds=time.perf_counter() - started)


@torch.no_grad()
def skeleton(option: FakeQuant, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with rounded weights and replaced layers, whose ranges are filled in later."""
    network = _ready(network)
    rounded: dict[Tensor, nn.Parameter] = {}  # by the weight, which several layers may share with others in float

    def replacement(layer: Any) -> FakeQuantized:
        weight = layer.weight
        if weight not in rounded:
            rounded[weight] = nn.Parameter(round_weight(weight, option.weight_bits, option.weights))
        layer.weight = rounded[weight]
        return FakeQuantized(layer, option.weight_bits, option.activation_bits)

    return _replaced(network, _layers(option, network, form.example), replacement)


def _trained(option: FakeQuant, work: Work, layers: list[str]) -> Trained:
    """Return the float network after it was trained with rounded values, from the cache if it was before."""
    baseline, data, schedule = work.baseline, work.data, recipe(option, work.train)

    def build() -> nn.Module:
        def replacement(layer: nn.Module) -> Learning:
            return Learning(layer, option.weight_bits, option.activation_bits, option.weights)

        return _replaced(_ready(copied(baseline.model)), layers, replacement)

    def run_training(model: nn.Module) -> Training:
        """Train the network; its first ranges are those of the float network."""
        _cover(model, _calibrated(_ready(copied(baseline.model)), layers, work), option.percentile)

        def follow(step: int, steps: int) -> None:
            """Set the ranges to those of the weights so far, before each epoch but the first."""
            if step and step % (steps // schedule.epochs) == 0:
                _cover(model, _calibrated(model.eval(), layers, work), option.percentile)
                model.train()

        label = f"train {option.weight_bits} bits"
        return fit(model, data.train, data.objective, schedule, seed=baseline.seed, label=label, on_step=follow)

    settings = option.settings(WEIGHTS, RESULT)
    for name in ("include", "exclude", "epochs", "learning_rate"):  # the layers, and the schedule, are in the key
        settings.pop(name, None)
    extra = {"quant": {**settings, "layers": layers}, "from": baseline.key}
    return baseline.trained_once("fake_quant", schedule, extra, build, run_training)


@torch.no_grad()
def _learned(option: FakeQuant, form: Form, layers: list[str], trained: nn.Module) -> nn.Module:
    """Return the network with the weights that were learned, rounded, and the ranges that they were learned with."""
    learned: dict[str, Any] = {name: trained.get_submodule(name) for name in layers}
    network = skeleton(option, _replaced(trained, layers, lambda learning: learning.layer), form)
    for name, source in learned.items():
        rounding: Any = network.get_submodule(name)
        rounding.scale.copy_(source.scale)
        rounding.zero_point.copy_(source.zero_point)
    return network


def _replaced(network: nn.Module, layers: Iterable[str], replacement: Callable[[Any], nn.Module]) -> nn.Module:
    """Return `network` with the replacement of each layer in all its places."""
    places = list(network.named_modules(remove_duplicate=False))  # a shared layer has several
    for name in layers:
        layer = network.get_submodule(name)
        replaced = replacement(layer)
        for parent, _, child in (place.rpartition(".") for place, module in places if module is layer):
            setattr(network.get_submodule(parent), child, replaced)
    call_all_layers(network)
    return network


def _ready(network: nn.Module) -> nn.Module:
    return materialized(network).eval()


def _candidates(model: nn.Module) -> list[str]:
    """Return the layers by name that compute as one of LAYERS, also those of its subclasses."""
    return [
        name
        for name, module in model.named_modules()
        if any(isinstance(module, kind) and type(module).forward is kind.forward for kind in LAYERS)
    ]


def _layers(option: FakeQuant, model: nn.Module, example: Batch) -> list[str]:
    """Return the layers that are quantized: those whose inputs can be rounded, because the network calls them."""
    kept = kept_in_float(option, model)
    inputs = _inputs(model, [name for name in _candidates(model) if name not in kept], [example])
    return [name for name, values in inputs.items() if values]


def _calibrated(model: nn.Module, layers: list[str], work: Work) -> dict[str, list[Tensor]]:
    """Return the inputs of each layer for the calibration examples, by name.

    Raises:
        QuantizationError: If the calibration examples do not reach a layer.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    batches = (tuple(one.to(device) for one in batch) for batch, _ in work.data.calibration.batches(CALIBRATION_BATCH))
    with threads(usable_cores()):
        inputs = _inputs(model, layers, batches)
    if missing := [name for name, values in inputs.items() if not values]:
        raise QuantizationError(
            f"every layer needs examples to set the range of its inputs, no calibration example reaches {missing[0]}; "
            f"use quant.exclude=[{missing[0]}]"
        )
    return inputs


def _cover(model: nn.Module, inputs: dict[str, list[Tensor]], percentile: float) -> None:
    for name, values in inputs.items():
        layer: Any = model.get_submodule(name)
        layer.cover(values, percentile)


@torch.no_grad()
def _inputs(model: nn.Module, layers: list[str], batches: Iterable[Batch]) -> dict[str, list[Tensor]]:
    """Return the inputs of each layer in each call, by its name."""
    recorded: dict[str, list[Tensor]] = {name: [] for name in layers}

    def record(values: list[Tensor], args: tuple[Any, ...], named: dict[str, Any]) -> None:
        values.append((*args, *named.values())[0].clone())  # the network may change it in place later

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, named, values=values: record(values, args, named), with_kwargs=True
        )
        for name, values in recorded.items()
    ]
    try:
        for batch in batches:
            model(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return recorded

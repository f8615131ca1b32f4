"""Fake quantization to a few bits: values are rounded to a grid of b bits, and the computation is in float.

    fake_quant(x) = scale · (clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point)

Weights are symmetric, quant_min = -2^(b-1) and scale = max|w| / (2^(b-1) - 1), and are stored
rounded. The inputs of each layer are affine, on 0 to 2^b - 1, with ranges from calibration. This shows the accuracy at
a number of bits. There are no kernels for it, so it shows neither size nor speed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import FakeQuant, Granularity
from quantexp.quant.flows.attention import call_all_layers
from quantexp.quant.inspection.promise import Promise, Quantized, Simulated
from quantexp.quant.methods.static import CALIBRATION_BATCH
from quantexp.quant.methods.work import Form, Work
from quantexp.quant.selection import kept_in_float
from quantexp.state.copies import copied, materialized
from quantexp.system.environment import threads, usable_cores
from quantexp.system.errors import QuantizationError
from quantexp.tasks.inputs import Batch

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
HANDLES = "nn.Linear, nn.Conv1d and nn.Conv2d"
NOT_CALLED = "the network does not call it but computes with its weight, so its inputs cannot be rounded"


class FakeQuantized(Simulated):
    """A layer that rounds its inputs; its weights are already rounded. It has the attributes of the layer too."""

    def __init__(self, layer: nn.Module, weight_bits: int, activation_bits: int) -> None:
        super().__init__()
        self.layer = layer
        self.weight_bits = weight_bits
        self.quant_max = 2**activation_bits - 1
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer, such as `in_features`, where the wrapper has none."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, input: Tensor) -> Tensor:
        rounded = torch.fake_quantize_per_tensor_affine(input, self.scale, self.zero_point, 0, self.quant_max)
        result: Tensor = self.layer(rounded)
        return result

    def cover(self, low: float, high: float) -> None:
        """Set the grid of the inputs to the range from `low` to `high`, extended to zero, which is exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / self.quant_max, torch.finfo(torch.float32).eps)
        self.scale.fill_(scale)
        self.zero_point.fill_(min(round(-low / scale), self.quant_max))


def quantize(option: FakeQuant, work: Work) -> Quantized:
    """Round the weights of a copy of the float network, and its activations with ranges from calibration."""
    started = time.perf_counter()
    model = _ready(copied(work.baseline.model))
    kept = kept_in_float(option, model)
    layers = _layers(option, model, work.form.example)
    unfit = {name: NOT_CALLED for name in _candidates(model) if name not in (*layers, *kept)}
    with threads(usable_cores()):
        batches = (batch for batch, _ in work.data.calibration.batches(CALIBRATION_BATCH))
        ranges = _ranges(model, layers, option.percentile, batches)
    model = skeleton(option, model, work.form)
    for name, (low, high) in ranges.items():
        layer: Any = model.get_submodule(name)
        layer.cover(low, high)
    promise = Promise(HANDLES, layers="simulated", kept=kept, unfit=unfit)
    return Quantized(model, promise, calibration_seconds=time.perf_counter() - started)


@torch.no_grad()
def skeleton(option: FakeQuant, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with rounded weights and replaced layers, whose ranges are filled in later."""
    network = _ready(network)
    places = list(network.named_modules(remove_duplicate=False))  # a shared layer has several
    rounded: dict[Tensor, nn.Parameter] = {}  # by the weight, which several layers may share with others in float
    for name in _layers(option, network, form.example):
        layer: Any = network.get_submodule(name)
        weight = layer.weight
        if weight not in rounded:
            rounded[weight] = nn.Parameter(round_weight(weight, option.weight_bits, option.weights))
        layer.weight = rounded[weight]
        simulated = FakeQuantized(layer, option.weight_bits, option.activation_bits)
        for parent, _, child in (place.rpartition(".") for place, module in places if module is layer):
            setattr(network.get_submodule(parent), child, simulated)
    call_all_layers(network)
    return network


def round_weight(weight: Tensor, bits: int, granularity: Granularity) -> Tensor:
    """Round a weight of shape (channels, ...) to the symmetric grid of `bits` bits."""
    largest = 2 ** (bits - 1) - 1
    rows = weight.flatten(1) if granularity is Granularity.per_channel else weight.reshape(1, -1)
    scale = (rows.abs().amax(1, keepdim=True) / largest).clamp(min=torch.finfo(torch.float32).eps)
    rounded: Tensor = (rows / scale).round_().clamp_(-largest - 1, largest).mul_(scale)
    return rounded.view_as(weight)


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


def _ranges(
    model: nn.Module, layers: list[str], percentile: float, batches: Iterable[Batch]
) -> dict[str, tuple[float, float]]:
    """Return the bounds that contain `percentile` percent of the inputs of each layer, by name.

    Raises:
        QuantizationError: If the calibration examples do not reach a layer.
    """
    inputs = _inputs(model, layers, batches)
    if missing := [name for name, values in inputs.items() if not values]:
        raise QuantizationError(
            f"every layer needs examples to set the range of its inputs, no calibration example reaches {missing[0]}; "
            f"use quant.exclude=[{missing[0]}]"
        )
    return {name: bounds(torch.cat(values), percentile) for name, values in inputs.items()}


@torch.no_grad()
def _inputs(model: nn.Module, layers: list[str], batches: Iterable[Batch]) -> dict[str, list[Tensor]]:
    """Return the inputs of each layer in each call, flattened, by its name."""
    recorded: dict[str, list[Tensor]] = {name: [] for name in layers}

    def record(values: list[Tensor], args: tuple[Any, ...], named: dict[str, Any]) -> None:
        values.append((*args, *named.values())[0].flatten().clone())  # the network may change it in place later

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


def bounds(values: Tensor, percentile: float) -> tuple[float, float]:
    """Return the smallest and the largest value after excluding (100 - percentile) / 2 percent on each side."""
    ordered = values.flatten().sort().values
    tail = int(len(ordered) * (100.0 - percentile) / 200.0)
    return float(ordered[tail]), float(ordered[len(ordered) - 1 - tail])

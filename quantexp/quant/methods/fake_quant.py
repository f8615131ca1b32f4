"""Fake quantization to a few bits: values are rounded to a grid of b bits, and the computation is in float.

    fake_quant(x) = scale · (clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point)

Weights are symmetric, quant_min = -2^(b-1) and scale = max|w| / (2^(b-1) - 1), and are stored
rounded. The inputs of each layer are affine, on 0 to 2^b - 1, with ranges from calibration. This shows the accuracy at
a number of bits. There are no kernels for it, so it shows neither size nor speed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantexp.config import FakeQuant, Granularity
from quantexp.quant.inspection.promise import Promise, Quantized, Simulated
from quantexp.quant.methods.static import CALIBRATION_BATCH
from quantexp.quant.methods.work import Form, Work
from quantexp.quant.selection import kept_in_float
from quantexp.state.copies import copied, materialized
from quantexp.system.environment import threads, usable_cores
from quantexp.tasks.inputs import Batch

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
HANDLES = "nn.Linear, nn.Conv1d and nn.Conv2d"


class FakeQuantized(Simulated):
    """A layer that rounds its inputs; its weights are already rounded."""

    def __init__(self, layer: nn.Module, weight_bits: int, activation_bits: int) -> None:
        super().__init__()
        self.layer = layer
        self.weight_bits = weight_bits
        self.quant_max = 2**activation_bits - 1
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        rounded = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, self.quant_max)
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
    model = materialized(copied(work.baseline.model))
    with threads(usable_cores()):
        ranges = _ranges(option, model, (batch for batch, _ in work.data.calibration.batches(CALIBRATION_BATCH)))
    model = skeleton(option, model, work.form)
    for name, layer in model.named_modules():
        if isinstance(layer, FakeQuantized) and name in ranges:
            layer.cover(*ranges[name])
    promise = Promise(HANDLES, layers="simulated", kept=kept_in_float(option, work.baseline.model))
    return Quantized(model, promise, calibration_seconds=time.perf_counter() - started)


@torch.no_grad()
def skeleton(option: FakeQuant, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with rounded weights and replaced layers, whose ranges are filled in later."""
    network = materialized(network)
    for name in _layers(option, network):
        parent, _, child = name.rpartition(".")
        layer = network.get_submodule(name)
        layer.weight.copy_(round_weight(layer.weight, option.weight_bits, option.weights))  # type: ignore[operator, arg-type]
        setattr(network.get_submodule(parent), child, FakeQuantized(layer, option.weight_bits, option.activation_bits))
    return network.eval()


def round_weight(weight: Tensor, bits: int, granularity: Granularity) -> Tensor:
    """Round a weight of shape (channels, ...) to the symmetric grid of `bits` bits."""
    largest = 2 ** (bits - 1) - 1
    rows = weight.flatten(1) if granularity is Granularity.per_channel else weight.reshape(1, -1)
    scale = (rows.abs().amax(1, keepdim=True) / largest).clamp(min=torch.finfo(torch.float32).eps)
    rounded: Tensor = (rows / scale).round_().clamp_(-largest - 1, largest).mul_(scale)
    return rounded.view_as(weight)


@torch.no_grad()
def _ranges(option: FakeQuant, model: nn.Module, batches: Iterable[Batch]) -> dict[str, tuple[float, float]]:
    """Return the bounds that contain `percentile` percent of the inputs of each layer, by name."""
    recorded: dict[str, list[Tensor]] = {name: [] for name in _layers(option, model)}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, values=values: values.append(inputs[0]))
        for name, values in recorded.items()
    ]
    for batch in batches:
        model(*batch)
    for hook in hooks:
        hook.remove()
    return {name: bounds(torch.cat(values), option.percentile) for name, values in recorded.items() if values}


def bounds(values: Tensor, percentile: float) -> tuple[float, float]:
    """Return the smallest and the largest value after excluding (100 - percentile) / 2 percent on each side."""
    ordered = values.flatten().sort().values
    tail = int(len(ordered) * (100.0 - percentile) / 200.0)
    return float(ordered[tail]), float(ordered[len(ordered) - 1 - tail])


def _layers(option: FakeQuant, model: nn.Module) -> list[str]:
    kept = kept_in_float(option, model)
    return [name for name, module in model.named_modules() if type(module) in LAYERS and name not in kept]

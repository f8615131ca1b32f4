"""Layers whose weights and inputs are rounded to a few bits, and the grids of these values.

    b bits   scale · (clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point)
    1 bit    mean|w| · sign(w) for the weights of a channel, as in XNOR-Net (Rastegari et al. 2016, arXiv:1603.05279)

XNOR-Net normalises the inputs of a layer before it takes their signs; without that, all outputs of a ReLU would be +1.
Here the mean m of each channel, from calibration, is subtracted and added again: m + mean|x - m| · sign(x - m).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Granularity
from quantexp.quant.inspection.promise import Simulated

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
LEAST_SCALE = torch.finfo(torch.float32).eps


class FakeQuantized(Simulated):
    """A layer that rounds its inputs; its weights are already rounded. It has the attributes of the layer too.

    The grid of the inputs is one for all of them; with 1 bit, one for each channel, where `zero_point` is not an
    integer.
    """

    def __init__(self, layer: nn.Module, weight_bits: int, activation_bits: int) -> None:
        super().__init__()
        self.layer = layer
        self.weight_bits = weight_bits
        self.quant_max = 2**activation_bits - 1
        shape = _channels(layer) if activation_bits == 1 else ()
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.float32 if shape else torch.int32))

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer, such as `in_features`, where the wrapper has none."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.layer(self.rounded(input))
        return result

    def rounded(self, inputs: Tensor) -> Tensor:
        """Round inputs to the grid; the gradient passes straight through inside its range (Bengio et al. 2013)."""
        if not self.scale.dim():
            return torch.fake_quantize_per_tensor_affine(inputs, self.scale, self.zero_point, 0, self.quant_max)
        middle = self.scale * (0.5 - self.zero_point)
        signs = torch.where(inputs >= middle, 0.5, -0.5)
        near = inputs.clamp(middle - self.scale, middle + self.scale)  # has a gradient only there
        return (middle + self.scale * signs) + (near - near.detach())

    def cover(self, inputs: Sequence[Tensor], percentile: float) -> None:
        """Set the grid for inputs like these, so that it contains `percentile` percent of them; 1 bit has no range."""
        if self.scale.dim():
            self._cover_channels(inputs)
            return
        low, high = bounds(torch.cat([values.flatten() for values in inputs]), percentile)
        low, high = min(low, 0.0), max(high, 0.0)  # zero is exact
        scale = max((high - low) / self.quant_max, LEAST_SCALE)
        self.scale.fill_(scale)
        self.zero_point.fill_(min(round(-low / scale), self.quant_max))

    def _cover_channels(self, inputs: Sequence[Tensor]) -> None:
        """Set the two levels of each channel to its mean ± the mean absolute deviation from it."""
        behind = self.scale.dim()  # dimensions, the channels the first of them
        values = torch.cat([given.movedim(-behind, -1).reshape(-1, self.scale.numel()) for given in inputs])
        middle = values.mean(0)
        scale = (2 * (values - middle).abs().mean(0)).clamp(min=LEAST_SCALE)
        self.scale.copy_(scale.view_as(self.scale))
        self.zero_point.copy_((0.5 - middle / scale).view_as(self.zero_point))


class Learning(FakeQuantized):
    """Such a layer while it is trained: `layer` has the weight that is learned, and computes with it rounded."""

    def __init__(self, layer: nn.Module, weight_bits: int, activation_bits: int, granularity: Granularity) -> None:
        super().__init__(layer, weight_bits, activation_bits)
        self.granularity = granularity

    def forward(self, input: Tensor) -> Tensor:
        weight: Any = self.layer.weight
        rounded = round_weight(weight.detach(), self.weight_bits, self.granularity)
        straight = rounded + (weight - weight.detach())  # as if rounding had the derivative 1
        result: Tensor = torch.func.functional_call(self.layer, {"weight": straight}, (self.rounded(input),))
        return result


def round_weight(weight: Tensor, bits: int, granularity: Granularity) -> Tensor:
    """Round a weight of shape (channels, ...) to the symmetric grid of `bits` bits; 1 bit has two levels."""
    rows = weight.flatten(1) if granularity is Granularity.per_channel else weight.reshape(1, -1)
    if bits == 1:
        return rows.abs().mean(1, keepdim=True).mul(torch.where(rows < 0, -1.0, 1.0)).view_as(weight)
    largest = 2 ** (bits - 1) - 1
    scale = (rows.abs().amax(1, keepdim=True) / largest).clamp(min=LEAST_SCALE)
    rounded: Tensor = (rows / scale).round_().clamp_(-largest - 1, largest).mul_(scale)
    return rounded.view_as(weight)


def bounds(values: Tensor, percentile: float) -> tuple[float, float]:
    """Return the smallest and the largest value after excluding (100 - percentile) / 2 percent on each side."""
    ordered = values.flatten().sort().values
    tail = int(len(ordered) * (100.0 - percentile) / 200.0)
    return float(ordered[tail]), float(ordered[len(ordered) - 1 - tail])


def _channels(layer: Any) -> tuple[int, ...]:
    """Return the shape of a value for each channel of the inputs, to be broadcast over them."""
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    return (layer.in_channels, *[1] * len(layer.kernel_size))

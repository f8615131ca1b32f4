"""The quantization error of each layer: in its weight, and in its inputs and outputs compared with float.

Both networks run on the same examples, batch by batch, and only sums are stored: the memory for activations is that of
one batch, for any number of examples.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from quantexp.quant.inspection.dequantized import Call, Grid, named_layers, weight
from quantexp.quant.inspection.layers import HeldWeights
from quantexp.quant.inspection.recorded import UNKNOWN, calls
from quantexp.results import Layer, LayerLoss
from quantexp.state.copies import materialized, to_run
from quantexp.statistics.sqnr import absolute_errors, decibels, energies, finite, sqnr_db
from quantexp.tasks.data import Split
from quantexp.training.loop import PREDICT_BATCH

EXAMPLES = 512
HELD_BYTES = 512_000_000  # of the inputs and outputs of all layers at once
Figures = dict[str, float | None]


@torch.no_grad()
def layer_losses(
    baseline: nn.Module, quantized: nn.Module, layers: Sequence[Layer], examples: Split
) -> tuple[LayerLoss, ...]:
    """Return the losses of `layers`, the layers of the quantized network, on up to 512 evenly spaced examples.

    The result is empty if all layers hold float32: then nothing was rounded, and only separate training differs.
    """
    if all(layer.precision == "fp32" for layer in layers):
        return ()
    reference = materialized(to_run(baseline))
    remaining = {layer.name for layer in layers}
    count = min(EXAMPLES, len(examples))
    rows = torch.arange(count) * len(examples) // count
    seen = {layer.name: _Seen(remaining) for layer in layers}
    norms: dict[str, str] = {}
    for batch in torch.split(rows, _batch_size(reference, examples)):
        inputs = examples.inputs(batch)
        before, after = calls(reference, inputs), calls(quantized, inputs)
        norms |= _folded(before, remaining)
        for name, sums in seen.items():
            sums.add(before.get(name, []), after.get(name, []))
    weights = _float_weights(reference, norms)
    held = named_layers(quantized)
    return tuple(
        LayerLoss(
            name=layer.name,
            precision=layer.precision,
            **_weight_figures(weights.get(layer.name), held.get(layer.name) if layer.precision != "fp32" else None),
            **seen[layer.name].figures(),
        )
        for layer in layers
    )


def _batch_size(reference: nn.Module, examples: Split) -> int:
    """Return how many examples are compared at once: 64, or fewer if the values of all layers take too much memory."""
    few = min(2, len(examples))  # a network may need more than one
    found = [call for of_layer in calls(reference, examples.first(few)).values() for call in of_layer]
    values = sum(tensor.numel() for call in found for tensor in (call.inputs, call.output) if tensor is not None)
    held = 2 * 4 * values // few  # in two networks, in float32
    return max(1, min(PREDICT_BATCH, HELD_BYTES // max(held, 1)))


@dataclass
class _Seen:
    """The sums and ranges of one layer over the batches so far; `remaining` are the layers of the quantized network."""

    remaining: Container[str]
    low: float = math.inf
    high: float = -math.inf
    grid_low: float = math.inf  # over the grids of all calls
    grid_high: float = -math.inf
    values: int = 0
    beyond: int = 0
    inputs: tuple[float, float] = (0.0, 0.0)  # energies of the float values and of the difference
    outputs: tuple[float, float] = (0.0, 0.0)

    def add(self, before: Sequence[Call], after: Sequence[Call]) -> None:
        """Add the calls of the layer on one batch, in the float network and in the quantized one."""
        for call in before:
            if call.inputs is not None:
                self.low, self.high = min(self.low, float(call.inputs.min())), max(self.high, float(call.inputs.max()))
        for call, other in zip(before, after, strict=False):
            if call.inputs is not None and other.inputs is not None:
                if other.grid is not None:
                    self._count_clipped(other.grid, call.inputs)
                self.inputs = _add_energies(self.inputs, call.inputs, other.inputs)
            if compared := _passed_on(call, other, self.remaining):
                self.outputs = _add_energies(self.outputs, *compared)

    def _count_clipped(self, grid: Grid, values: Tensor) -> None:
        low, high = grid.low - grid.scale / 2, grid.high + grid.scale / 2
        self.grid_low, self.grid_high = min(self.grid_low, grid.low), max(self.grid_high, grid.high)
        self.values += values.numel()
        self.beyond += int(((values < low) | (values > high)).sum())

    def figures(self) -> Figures:
        """Return the figures of the activations by name."""
        return {
            "input_low": finite(self.low),
            "input_high": finite(self.high),
            "grid_low": finite(self.grid_low),
            "grid_high": finite(self.grid_high),
            "clipped": self.beyond / self.values if self.values else None,
            "input_sqnr_db": decibels(*self.inputs),
            "output_sqnr_db": decibels(*self.outputs),
        }


def _passed_on(call: Call, other: Call, remaining: Container[str]) -> tuple[Tensor, Tensor] | None:
    """Return the outputs of a layer in float and quantized as the next layer takes them: behind normalisation and ReLU.

    The quantized output includes a normalisation that is not among the `remaining` layers, and a ReLU that was fused.
    None if the outputs cannot be compared.
    """
    if call.output is None or other.output is None or call.output.numel() != other.output.numel():
        return None
    # Graphs flatten the inputs of linear layers.
    reference, value = call.output, other.output.reshape(call.output.shape)
    for step in call.behind:
        if step.norm == UNKNOWN:
            return None
        reference = step.compute(reference)
        if step.norm in remaining or (step.norm is None and not other.rectified):
            value = step.compute(value)
    return (reference.relu() if other.rectified else reference), value


def _add_energies(sums: tuple[float, float], reference: Tensor, other: Tensor) -> tuple[float, float]:
    if reference.numel() != other.numel():
        return sums
    signal, noise = energies(reference, other.reshape(reference.shape))
    return sums[0] + signal, sums[1] + noise


def _weight_figures(reference: Tensor | None, held: HeldWeights | None) -> Figures:
    """Return the range of a float weight, and its errors if the quantized one, `held`, is given."""
    figures: Figures = dict.fromkeys(
        ("weight_mean_error", "weight_max_error", "weight_sqnr_db", "weight_low", "weight_high")
    )
    if reference is None:
        return figures
    figures |= {"weight_low": finite(float(reference.min())), "weight_high": finite(float(reference.max()))}
    quantized = None if held is None else weight(held)  # dequantized only here: one layer after the other
    if quantized is None or quantized.shape != reference.shape:
        return figures
    mean_error, max_error = absolute_errors(reference, quantized)
    return figures | {
        "weight_mean_error": finite(mean_error),
        "weight_max_error": finite(max_error),
        "weight_sqnr_db": sqnr_db(reference, quantized),
    }


# Batch normalisation


def _folded(before: Mapping[str, Sequence[Call]], remaining: Container[str]) -> dict[str, str]:
    """Return the batch normalisations that were folded into the layer before them, by the name of that layer."""
    return {
        name: step.norm
        for name, layer_calls in before.items()
        for call in layer_calls
        for step in call.behind
        if step.norm and step.norm not in remaining
    }


def _float_weights(reference: nn.Module, norms: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the weights of the float network by layer, with their batch normalisation folded in."""
    held = named_layers(reference)
    weights = {name: weight(layer) for name, layer in held.items()}
    for name, norm_name in norms.items():
        norm, layer = held[norm_name].module, held[name].module
        if not isinstance(norm, _BatchNorm) or norm.running_var is None:
            continue
        factors = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        channels = 1 if isinstance(layer, _ConvTransposeNd) else 0  # the dimension of the output channels
        shape = [-1 if dimension == channels else 1 for dimension in range(weights[name].dim())]
        weights[name] = weights[name] * factors.view(shape)
    return weights

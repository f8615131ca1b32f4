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

from quantexp.quant.inspection.dequantized import Call, Grid, calls, named_layers, weight
from quantexp.results import Layer, LayerLoss
from quantexp.statistics.sqnr import decibels, energies, finite, sqnr_db
from quantexp.tasks.data import Split
from quantexp.tasks.inputs import Batch
from quantexp.training.loop import PREDICT_BATCH

EXAMPLES = 512
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
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
    count = min(EXAMPLES, len(examples))
    rows = torch.arange(count) * len(examples) // count
    norms = _folded(baseline, {layer.name for layer in layers}, examples.inputs(rows[:2]))
    seen = {layer.name: _Seen() for layer in layers}
    for batch in torch.split(rows, PREDICT_BATCH):
        inputs = examples.inputs(batch)
        before, after = calls(baseline, inputs, norms), calls(quantized, inputs)
        for name, sums in seen.items():
            sums.add(before.get(name, []), after.get(name, []))
    weights = _float_weights(baseline, norms)
    held = dict.fromkeys(layer.name for layer in layers) | {
        name: weight(layer) for name, layer in named_layers(quantized).items()
    }
    return tuple(
        LayerLoss(
            name=layer.name,
            precision=layer.precision,
            **_weight_figures(weights.get(layer.name), None if layer.precision == "fp32" else held[layer.name]),
            **seen[layer.name].figures(),
        )
        for layer in layers
    )


@dataclass
class _Seen:
    """The sums and ranges of one layer over the batches so far."""

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
            if call.output is not None and other.output is not None:
                reference = call.output.relu() if other.rectified else call.output
                self.outputs = _add_energies(self.outputs, reference, other.output)

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


def _add_energies(sums: tuple[float, float], reference: Tensor, other: Tensor) -> tuple[float, float]:
    if reference.numel() != other.numel():
        return sums
    signal, noise = energies(reference, other.reshape(reference.shape))  # graphs flatten the inputs of linear layers
    return sums[0] + signal, sums[1] + noise


def _weight_figures(reference: Tensor | None, quantized: Tensor | None) -> Figures:
    """Return the range of a float weight, and its errors if `quantized` is given."""
    figures: Figures = dict.fromkeys(
        ("weight_mean_error", "weight_max_error", "weight_sqnr_db", "weight_low", "weight_high")
    )
    if reference is None:
        return figures
    figures |= {"weight_low": finite(float(reference.min())), "weight_high": finite(float(reference.max()))}
    if quantized is None or quantized.shape != reference.shape:
        return figures
    error = (reference - quantized).abs()
    return figures | {
        "weight_mean_error": finite(float(error.mean())),
        "weight_max_error": finite(float(error.max())),
        "weight_sqnr_db": sqnr_db(reference, quantized),
    }


# Batch normalisation


def _folded(baseline: nn.Module, remaining: Container[str], example: Batch) -> dict[str, nn.Module]:
    """Return the batch normalisations that were folded into the layer before them, by the name of that layer.

    Their inputs are the outputs of that layer, and they are not among the `remaining` layers of the quantized network.
    """
    held = named_layers(baseline)
    norms = {
        name: layer.module for name, layer in held.items() if isinstance(layer.module, NORMS) and name not in remaining
    }
    if not norms:
        return {}
    found = calls(baseline, example)
    return {
        name: norm
        for norm_name, norm in norms.items()
        for name, layer_calls in found.items()
        for call, norm_call in zip(layer_calls, found[norm_name], strict=False)
        if call.output is not None and norm_call.inputs is not None and torch.equal(call.output, norm_call.inputs)
    }


def _float_weights(baseline: nn.Module, norms: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the weights of the float network by layer, with their batch normalisation folded in."""
    weights = {name: weight(held) for name, held in named_layers(baseline).items()}
    for name, norm in norms.items():
        if not isinstance(norm, NORMS) or norm.running_var is None:
            continue
        factors = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        weights[name] = weights[name] * factors.view(-1, *[1] * (weights[name].dim() - 1))
    return weights

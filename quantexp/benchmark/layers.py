"""What each layer loses by quantization: errors of its weight, and how far its inputs and outputs are from float's.

Both models run on the same examples, a batch at a time, and only sums are kept: memory holds one batch of activations
of either model, however many examples there are.
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
    """Return what each of `layers`, those of the quantized model, loses on up to 512 examples spread over `examples`.

    Nothing where all of them hold float32: nothing was rounded, a training of its own made the difference.
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
        for name, one in seen.items():
            one.add(before.get(name, []), after.get(name, []))
    weights = _float_weights(baseline, norms)
    held = {layer.name: None for layer in layers} | {name: weight(one) for name, one in named_layers(quantized).items()}
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
    """What was seen of one layer in the batches so far."""

    low: float = math.inf
    high: float = -math.inf
    grid_low: float = math.inf  # of the grids of all calls
    grid_high: float = -math.inf
    values: int = 0
    beyond: int = 0
    inputs: tuple[float, float] = (0.0, 0.0)  # energies: of the float model's, of the difference
    outputs: tuple[float, float] = (0.0, 0.0)

    def add(self, before: Sequence[Call], after: Sequence[Call]) -> None:
        """Add a batch: what the layer took and gave in the float model, and in the quantized one, call by call."""
        for one in before:
            if one.inputs is not None:
                self.low, self.high = min(self.low, float(one.inputs.min())), max(self.high, float(one.inputs.max()))
        for one, other in zip(before, after, strict=False):
            if one.inputs is not None and other.inputs is not None:
                if other.grid is not None:
                    self._hold_against(other.grid, one.inputs)
                self.inputs = _added(self.inputs, one.inputs, other.inputs)
            if one.output is not None and other.output is not None:
                reference = one.output.relu() if other.rectified else one.output
                self.outputs = _added(self.outputs, reference, other.output)

    def _hold_against(self, grid: Grid, values: Tensor) -> None:
        low, high = grid.low - grid.scale / 2, grid.high + grid.scale / 2
        self.grid_low, self.grid_high = min(self.grid_low, grid.low), max(self.grid_high, grid.high)
        self.values += values.numel()
        self.beyond += int(((values < low) | (values > high)).sum())

    def figures(self) -> Figures:
        """Return the figures of the activations under their names."""
        return {
            "input_low": finite(self.low),
            "input_high": finite(self.high),
            "grid_low": finite(self.grid_low),
            "grid_high": finite(self.grid_high),
            "clipped": self.beyond / self.values if self.values else None,
            "input_sqnr_db": decibels(*self.inputs),
            "output_sqnr_db": decibels(*self.outputs),
        }


def _added(sums: tuple[float, float], reference: Tensor, other: Tensor) -> tuple[float, float]:
    if reference.numel() != other.numel():
        return sums
    signal, noise = energies(reference, other.reshape(reference.shape))  # graphs flatten what linear layers take
    return sums[0] + signal, sums[1] + noise


def _weight_figures(reference: Tensor | None, given: Tensor | None) -> Figures:
    """Return the figures of a float weight, and its errors where `given` is what was made of it."""
    figures: Figures = dict.fromkeys(
        ("weight_mean_error", "weight_max_error", "weight_sqnr_db", "weight_low", "weight_high")
    )
    if reference is None:
        return figures
    figures |= {"weight_low": finite(float(reference.min())), "weight_high": finite(float(reference.max()))}
    if given is None or given.shape != reference.shape:
        return figures
    error = (reference - given).abs()
    return figures | {
        "weight_mean_error": finite(float(error.mean())),
        "weight_max_error": finite(float(error.max())),
        "weight_sqnr_db": sqnr_db(reference, given),
    }


# Batch normalisation


def _folded(baseline: nn.Module, left: Container[str], example: Batch) -> dict[str, nn.Module]:
    """Return the batch normalisations that were folded into the layer before them, by that layer.

    They take what the layer gives, and are not among the layers that are `left` in the quantized model.
    """
    held = named_layers(baseline)
    norms = {name: one.module for name, one in held.items() if isinstance(one.module, NORMS) and name not in left}
    if not norms:
        return {}
    found = calls(baseline, example)
    return {
        name: norm
        for behind, norm in norms.items()
        for name, of_layer in found.items()
        for one, other in zip(of_layer, found[behind], strict=False)
        if one.output is not None and other.inputs is not None and torch.equal(one.output, other.inputs)
    }


def _float_weights(baseline: nn.Module, norms: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the weights of the float model by layer, with the batch normalisation that is folded into them."""
    weights = {name: weight(held) for name, held in named_layers(baseline).items()}
    for name, norm in norms.items():
        assert isinstance(norm, NORMS)
        assert norm.running_var is not None
        factors = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        weights[name] = weights[name] * factors.view(-1, *[1] * (weights[name].dim() - 1))
    return weights

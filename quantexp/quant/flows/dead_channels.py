"""Channels that batch normalisation multiplies by zero, as where the last one of a residual block starts at zero.

Fake quantization in training folds normalisation into the convolution before it, quantizes the folded weights and
divides by the factor again; torch divides 0 by 0 there, and the whole network becomes NaN.
"""

from __future__ import annotations

import torch
from torch import nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SMALL = 1e-3  # normalised values are a few units, so that this is below a step of int8


@torch.no_grad()
def divisible(network: nn.Module) -> nn.Module:
    """Set the scales of batch normalisation that are zero to a small value, in place; return the network."""
    for module in network.modules():
        if isinstance(module, NORMS) and module.weight is not None:
            module.weight[module.weight.abs() < torch.finfo(module.weight.dtype).tiny] = SMALL
    return network

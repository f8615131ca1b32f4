"""Batch normalisation that torch cannot fold into the layer before it: without a scale, or with scales of zero.

Scales are zero where the last normalisation of a residual block starts at zero.

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
    """Set the scales of batch normalisation that are zero to a small value, in place; return the network.

    Normalisation without scale and shift gets those of one and zero, which do not train.
    """
    for module in network.modules():
        if not isinstance(module, NORMS):
            continue
        if not module.affine:
            module.affine = True
            module.weight = nn.Parameter(torch.ones(module.num_features), requires_grad=False)
            module.bias = nn.Parameter(torch.zeros(module.num_features), requires_grad=False)
        module.weight[module.weight.abs() < torch.finfo(module.weight.dtype).tiny] = SMALL
    return network

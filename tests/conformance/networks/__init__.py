"""Small networks, one feature each, of the kinds that people bring; each is a class, described by its docstring.

A network takes flat features, of a square image, unless its attribute `takes` says otherwise.
"""

from __future__ import annotations

from torch import nn

from tests.conformance.networks import (
    activations,
    attention,
    blocks,
    convolutions,
    norms,
    recurrent,
    structure,
    tokens,
    weights,
)

FAMILIES = (recurrent, attention, activations, convolutions, norms, structure, weights, tokens, blocks)
PARTS = {  # classes that networks are made of
    *(recurrent.Rows, attention.Tokens, activations.Between, convolutions.OnImages, norms.Stack, structure.Pair),
    *(weights.Symmetric, weights.OwnLinear, weights.ScaledLinear, weights.Standardized, tokens.OnTokens),
    *(blocks.BasicBlock, blocks.Bottleneck, blocks.InvertedResidual, blocks.SqueezeExcite, blocks.ConvNeXtBlock),
}
NETWORKS: dict[str, type[nn.Module]] = {
    found.__name__: found
    for family in FAMILIES
    for found in vars(family).values()
    if isinstance(found, type)
    and issubclass(found, nn.Module)
    and found.__module__ == family.__name__
    and found not in PARTS
}

"""The fused kernel of torch's transformer layers, which computes with their float weights instead of their layers."""

from __future__ import annotations

from typing import Any

from torch import nn


def call_all_layers(network: nn.Module) -> None:
    """Let torch's transformer encoders call each of their layers, also in evaluation mode, in place.

    The fused kernel reads the weights of the layers, so quantized layers would be skipped, or have no such weight.
    torch does not use it for modules with hooks.
    """
    for module in network.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # a form of padded inputs that only the fused kernel takes
        elif isinstance(module, nn.TransformerEncoderLayer | nn.MultiheadAttention):
            module.register_forward_pre_hook(_unchanged)


def _unchanged(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Do nothing; that it is there keeps torch from the fused kernel."""

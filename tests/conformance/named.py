"""The kinds of layers that each method names as supported, by flow; the rest of a network stays in float there.

A network counts as built only from such layers if all its layers with parameters are of these kinds.
"""

from __future__ import annotations

from torch import nn

from tests.conformance.cells import Column

LINEAR = {"Linear"}
RECURRENT = {"LSTM", "GRU", "LSTMCell", "GRUCell", "RNNCell"}
CONVOLUTIONS = {"Conv1d", "Conv2d"}
NORMS = {"BatchNorm1d", "BatchNorm2d"}
INT8_MODULES = {"LayerNorm", "GroupNorm", "InstanceNorm2d", "PReLU"}  # that torch.ao has beside

NAMED: dict[tuple[str, str | None], set[str]] = {
    ("dynamic", "eager"): LINEAR | RECURRENT,
    ("dynamic", "fx"): LINEAR | {"BatchNorm1d"},
    ("dynamic", "pt2e"): LINEAR,
    ("dynamic", "torchao"): LINEAR,
    ("weight_only", "torchao"): LINEAR,
    ("static", "fx"): LINEAR | CONVOLUTIONS | {"Conv3d"} | NORMS | INT8_MODULES,
    ("static", "eager"): LINEAR | CONVOLUTIONS | {"Conv3d"} | NORMS | INT8_MODULES,
    ("static", "pt2e"): LINEAR | CONVOLUTIONS | NORMS,
    ("qat", "fx"): LINEAR | CONVOLUTIONS | {"Conv3d"} | NORMS | INT8_MODULES,
    ("qat", "eager"): LINEAR | CONVOLUTIONS | {"Conv3d"} | NORMS | INT8_MODULES,
    ("qat", "pt2e"): LINEAR | CONVOLUTIONS | NORMS,
    ("fake_quant", None): LINEAR | CONVOLUTIONS,
}


def kinds(network: nn.Module) -> set[str]:
    """Return the kinds of the layers that hold the parameters of a network; a plain parameter is that of its module."""
    return {
        type(module).__name__
        for module in network.modules()
        if next(module.parameters(recurse=False), None) is not None
    }


def is_named(column: Column, network: nn.Module) -> bool:
    """Return whether the method names all kinds of layers that the network is built from."""
    found = kinds(network)
    return bool(found) and found <= NAMED.get((column.method, column.flow), set())

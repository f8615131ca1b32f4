"""What the graphs that PT2E leaves share, lowered or not: where their layers are, and the qparams that stand in them.

The scales and zero points of activations stand in a graph as numbers. A network keeps them as a buffer beside its
graphs, so that they are part of its state, and writes them into the graphs when a state is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from quantexp.quant.inspection.evidence import HeldWeights

DEQUANTIZE = "quantized_decomposed.dequantize"


@dataclass(frozen=True)
class Placed:
    """A layer in a graph: the node that computes it, and the tensors of the state that this takes.

    A layer that the network calls several times is placed as often. `scale` is None for a layer whose weight is a float.
    """

    name: str
    kind: str
    node: str
    weight: str
    bias: str | None
    scale: str | None


def held(network: nn.Module, layers: Iterable[Placed], state: Mapping[str, Tensor]) -> Iterator[HeldWeights]:
    """Yield the weights of the layers as the state holds them: int8, or float.

    A layer that is called several times holds floats if one of its calls takes them.
    """
    placed: dict[str, Placed] = {}
    for layer in layers:
        if layer.name not in placed or layer.scale is None:
            placed[layer.name] = layer
    for layer in placed.values():
        weight, bias = state[layer.weight], state[layer.bias] if layer.bias else None
        if layer.scale is None:
            yield HeldWeights(layer.name, layer.kind, network, weight, bias, torch.float32)
        else:
            scheme, scale = "per_channel_symmetric", state[layer.scale]
            yield HeldWeights(layer.name, layer.kind, network, weight, bias, torch.int8, scheme, scale)


def origin(node: Any) -> tuple[str | None, bool]:
    """Return which tensor of the state a constant is made of, and whether it was dequantized on the way."""
    dequantized = False
    while isinstance(node, fx.Node) and node.op == "call_function" and node.args:
        dequantized |= str(node.target).startswith(DEQUANTIZE)
        node = node.args[0]
    return (str(node.target), dequantized) if isinstance(node, fx.Node) and node.op == "get_attr" else (None, False)


def hold_as_parameters(module: nn.Module, layers: Iterable[Placed]) -> None:
    """Hold the weights and biases of the layers as parameters that are not trained, in memory of their own."""
    for layer in layers:
        for path in filter(None, (layer.weight, layer.bias)):
            prefix, _, name = path.rpartition(".")
            owner = module.get_submodule(prefix)
            tensor = getattr(owner, name).detach().clone()
            delattr(owner, name)
            owner.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


def qparams(graphs: Sequence[fx.GraphModule]) -> Tensor:
    """Return the scales and zero points that stand in the graphs as numbers, float64."""
    return torch.tensor([number for *_, number in _numbers(graphs)], dtype=torch.float64)


def write_qparams(graphs: Sequence[fx.GraphModule], values: Tensor) -> None:
    """Write what `qparams` gave into graphs of the same structure."""
    for (node, index, number), given in zip(list(_numbers(graphs)), values.tolist(), strict=True):
        node.update_arg(index, int(given) if isinstance(number, int) else given)
    for graph in graphs:
        graph.recompile()


def _numbers(graphs: Iterable[fx.GraphModule]) -> Iterator[tuple[fx.Node, int, float]]:
    """Yield node, argument and number of each."""
    for node in (node for graph in graphs for node in graph.graph.nodes):
        schema = getattr(getattr(node.target, "default", node.target), "_schema", None)
        for index, argument in enumerate(schema.arguments[: len(node.args)] if schema else ()):
            value = node.args[index]
            if argument.name.endswith(("scale", "zero_point")) and isinstance(value, int | float):
                yield node, index, value

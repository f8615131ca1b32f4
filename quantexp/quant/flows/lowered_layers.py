"""Which layer of the exported network each operator of a lowered graph comes from, and where its weight is held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from quantexp.quant.flows.multipliers import Operands, operands

DEQUANTIZE = "quantized_decomposed.dequantize"


@dataclass(frozen=True)
class ExportedLayer:
    """A layer of the network that was exported: its name, its class, and where the graph holds its weight.

    Layers that multiply are quantized where there is a kernel; an embedding or a normalisation stays in float.
    """

    name: str
    kind: str
    weight: str
    multiplies: bool


@dataclass(frozen=True)
class Placed:
    """A layer in the lowered program: the node that computes it, and the tensors of the state that this takes.

    A layer that the network calls several times is placed as often. `scale` is None for a layer that computes in float.
    """

    name: str
    kind: str
    node: str
    weight: str
    bias: str | None
    scale: str | None


def exported_layers(converted: fx.GraphModule) -> Iterator[ExportedLayer]:
    """Yield the layers of the exported network in the order in which they run."""
    for node in converted.graph.nodes:
        if not (stack := node.meta.get("nn_module_stack")):
            continue
        name, kind = list(stack.values())[-1]
        taken = operands(node)
        weight = _origin(taken.weight)[0] if taken else _held(node, {f"{name}.weight"})
        if weight:
            yield ExportedLayer(name, str(kind).rpartition(".")[2], weight, taken is not None)


def placed(graph: fx.GraphModule, layers: Iterable[ExportedLayer]) -> Iterator[Placed]:
    """Yield the layers of the lowered graph, each with the name of the layer that it comes from."""
    known = list(layers)
    left = [layer for layer in known if layer.multiplies]  # with one more for each further call of a layer
    others = {layer.weight: layer for layer in known if not layer.multiplies}
    for node in graph.graph.nodes:
        taken = operands(node)
        if taken is None:
            if weight := _held(node, others):
                yield Placed(others[weight].name, others[weight].kind, node.name, weight, None, None)
        elif weight := _origin(taken.weight)[0]:
            yield _multiplier(node, taken, weight, left)


def _multiplier(node: fx.Node, taken: Operands, weight: str, left: list[ExportedLayer]) -> Placed:
    """Return the layer that a node computes, and take it from those that are `left`."""
    bias = _origin(taken.bias)[0]
    own = bias.removesuffix(".bias") if bias else ""
    source = next((one for one in left if one.weight == weight), None)
    source = source or next((one for one in left if one.name == own), left[0])
    left.remove(source)
    integer = not _origin(taken.weight)[1] and str(node.target).startswith("onednn.q")
    scale = _origin(taken.scale)[0] if integer else None
    return Placed(source.name, source.kind, node.name, weight, bias, scale)


def _held(node: fx.Node, weights: Iterable[str]) -> str | None:
    """Return which of these tensors of the state a node takes as it is."""
    taken = (str(one.target) for one in node.all_input_nodes if one.op == "get_attr")
    return next((target for target in taken if target in weights), None)


def _origin(node: Any) -> tuple[str | None, bool]:
    """Return which tensor of the state a constant is made of, and whether it was dequantized on the way."""
    dequantized = False
    while isinstance(node, fx.Node) and node.op == "call_function" and node.args:
        dequantized |= str(node.target).startswith(DEQUANTIZE)
        node = node.args[0]
    return (str(node.target), dequantized) if isinstance(node, fx.Node) and node.op == "get_attr" else (None, False)

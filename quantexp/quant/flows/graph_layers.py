"""The layers of the network in the graphs that PT2E leaves, lowered or not: the node of each, and its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from quantexp.quant.flows.multipliers import Operands, operands
from quantexp.quant.inspection.evidence import HeldWeights

DEQUANTIZE = "quantized_decomposed.dequantize"


@dataclass(frozen=True)
class ExportedLayer:
    """A layer of the network that was exported: its name, its class, its node, and where the graph holds its weight.

    Layers that multiply are quantized where there is a kernel; an embedding or a normalisation stays in float.
    """

    name: str
    kind: str
    node: str
    weight: str
    multiplies: bool


@dataclass(frozen=True)
class Placed:
    """A layer in a graph: the node that computes it, and the tensors of the state that this takes.

    A layer that the network calls several times is placed as often. `scale` is None where the weight is a float.
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
        weight = origin(taken.weight)[0] if taken else _held(node, {f"{name}.weight"})
        if weight:
            yield ExportedLayer(name, str(kind).rpartition(".")[2], node.name, weight, taken is not None)


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
        elif weight := origin(taken.weight)[0]:
            yield _multiplier(node, taken, weight, left)


def _multiplier(node: fx.Node, taken: Operands, weight: str, left: list[ExportedLayer]) -> Placed:
    """Return the layer that a node computes, and take it from those that are `left`."""
    bias = origin(taken.bias)[0]
    own = bias.removesuffix(".bias") if bias else ""
    source = next((one for one in left if one.weight == weight), None)
    source = source or next((one for one in left if one.name == own), left[0])
    left.remove(source)
    integer = not origin(taken.weight)[1] and str(node.target).startswith("onednn.q")
    scale = origin(taken.scale)[0] if integer else None
    return Placed(source.name, source.kind, node.name, weight, bias, scale)


def _held(node: fx.Node, weights: Iterable[str]) -> str | None:
    """Return which of these tensors of the state a node takes as it is."""
    taken = (str(one.target) for one in node.all_input_nodes if one.op == "get_attr")
    return next((target for target in taken if target in weights), None)


def held(network: nn.Module, layers: Iterable[Placed], state: Mapping[str, Tensor]) -> Iterator[HeldWeights]:
    """Yield the weights of the layers as the state of `network` holds them: int8, or float.

    A layer that is called several times holds floats if one of its calls takes them.
    """
    known: dict[str, Placed] = {}
    for layer in layers:
        if layer.name not in known or layer.scale is None:
            known[layer.name] = layer
    for layer in known.values():
        weight, bias = state[layer.weight], state[layer.bias] if layer.bias else None
        if layer.scale is None:
            yield HeldWeights(layer.name, layer.kind, network, weight, bias, torch.float32)
        else:
            scheme, scale = "per_channel_symmetric", state[layer.scale]
            yield HeldWeights(layer.name, layer.kind, network, weight, bias, torch.int8, scheme, scale)


def hold_as_parameters(module: nn.Module, layers: Iterable[Placed]) -> None:
    """Hold the weights and biases of the layers as parameters that are not trained, in memory of their own."""
    for layer in layers:
        for path in filter(None, (layer.weight, layer.bias)):
            prefix, _, name = path.rpartition(".")
            owner = module.get_submodule(prefix)
            tensor = getattr(owner, name).detach().clone()
            delattr(owner, name)
            owner.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


def origin(node: Any) -> tuple[str | None, bool]:
    """Return which tensor of the state a constant is made of, and whether it was dequantized on the way."""
    dequantized = False
    while isinstance(node, fx.Node) and node.op == "call_function" and node.args:
        dequantized |= str(node.target).startswith(DEQUANTIZE)
        node = node.args[0]
    return (str(node.target), dequantized) if isinstance(node, fx.Node) and node.op == "get_attr" else (None, False)

"""The layers of a network in a graph of PT2E, lowered or not: their nodes and their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from quantexp.quant.flows.multipliers import Operands, operands
from quantexp.quant.inspection.layers import HeldWeights

PART = "Parameter"  # the kind of a product with a weight of a larger layer
DEQUANTIZE = "quantized_decomposed.dequantize"


@dataclass(frozen=True)
class ExportedLayer:
    """A layer of the exported network: its name, its class, its node, and the name of its first weight in the state.

    Layers that multiply are quantized if there is a kernel; embeddings and normalisations stay in float.
    """

    name: str
    kind: str
    node: str
    weight: str
    multiplies: bool


@dataclass(frozen=True)
class Placed:
    """A layer in a graph: the node that computes it, and the names of its tensors in the state.

    A layer that the network calls several times has one entry for each call. `scale` is None for a float weight.
    """

    name: str
    kind: str
    node: str
    weight: str
    bias: str | None
    scale: str | None


def exported_layers(converted: fx.GraphModule) -> Iterator[ExportedLayer]:
    """Yield the layers of the exported network in the order of execution."""
    for node in converted.graph.nodes:
        if not (stack := node.meta.get("nn_module_stack")):
            continue
        name, kind = list(stack.values())[-1]
        operated = operands(node)
        own = {f"{name}.weight", f"{name}.weight_ih_l0"}
        weight = origin(operated.weight)[0] if operated else _direct_input(node, own)
        if weight:
            yield ExportedLayer(name, str(kind).rpartition(".")[2], node.name, weight, operated is not None)


def placed(graph: fx.GraphModule, layers: Iterable[ExportedLayer]) -> Iterator[Placed]:
    """Yield the layers of the lowered graph, each with the name of its exported layer."""
    exported = list(layers)
    remaining = [layer for layer in exported if layer.multiplies]  # one entry for each call of a layer
    others = {layer.weight: layer for layer in exported if not layer.multiplies}
    for node in graph.graph.nodes:
        operated = operands(node)
        if operated is None:
            if weight := _direct_input(node, others):
                yield Placed(others[weight].name, others[weight].kind, node.name, weight, None, None)
        elif weight := origin(operated.weight)[0]:
            yield _multiplier(node, operated, weight, remaining)


def _multiplier(node: fx.Node, operated: Operands, weight: str, remaining: list[ExportedLayer]) -> Placed:
    """Return the layer that a node computes, and remove it from `remaining`."""
    bias = origin(operated.bias)[0]
    own = bias.removesuffix(".bias") if bias else ""
    source = next((layer for layer in remaining if layer.weight == weight), None)
    source = source or next((layer for layer in remaining if layer.name == own), None)
    if source is None:  # lowering took a layer apart that the exported graph calls as a whole, such as an LSTM
        source = ExportedLayer(weight.rpartition(".")[0] or weight, PART, node.name, weight, True)
    else:
        remaining.remove(source)
    integer = not origin(operated.weight)[1] and str(node.target).startswith("onednn.q")
    scale = origin(operated.scale)[0] if integer else None
    return Placed(source.name, source.kind, node.name, weight, bias, scale)


def _direct_input(node: fx.Node, weights: Iterable[str]) -> str | None:
    """Return the first of these tensors of the state that is a direct input of a node."""
    targets = (str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
    return next((target for target in targets if target in weights), None)


def held(network: nn.Module, layers: Iterable[Placed], state: Mapping[str, Tensor]) -> Iterator[HeldWeights]:
    """Yield the weights of the layers as in the state of `network`: int8 or float.

    A layer that is called several times counts as float if one of its calls uses a float weight.
    """
    by_name: dict[str, Placed] = {}
    for layer in layers:
        if layer.name not in by_name or layer.scale is None:
            by_name[layer.name] = layer
    for layer in by_name.values():
        weight, bias = state[layer.weight], state[layer.bias] if layer.bias else None
        if layer.scale is None:
            yield HeldWeights(layer.name, layer.kind, network, weight, bias, torch.float32)
        else:
            scheme, scale = "per_channel_symmetric", state[layer.scale]
            yield HeldWeights(layer.name, layer.kind, network, weight, bias, torch.int8, scheme, scale)


def hold_as_parameters(module: nn.Module, layers: Iterable[Placed]) -> None:
    """Make the weights and biases of the layers parameters without gradients, as copies."""
    for layer in layers:
        for path in filter(None, (layer.weight, layer.bias)):
            prefix, _, name = path.rpartition(".")
            owner = module.get_submodule(prefix)
            tensor = getattr(owner, name).detach().clone()
            delattr(owner, name)
            owner.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


def origin(node: Any) -> tuple[str | None, bool]:
    """Return the tensor of the state that a constant is computed from, and whether that includes a dequantize."""
    dequantized = False
    while isinstance(node, fx.Node) and node.op == "call_function" and node.args:
        dequantized |= str(node.target).startswith(DEQUANTIZE)
        node = node.args[0]
    return (str(node.target), dequantized) if isinstance(node, fx.Node) and node.op == "get_attr" else (None, False)

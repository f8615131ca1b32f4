"""A network that PT2E converted, not lowered: float operators between pairs of quantize and dequantize (Q/DQ).

In eager execution it runs slowly and computes the same as the integer kernels that a compiler generates from it. Here
unused tensors are removed from the graph, mainly the float weights, and it gets a state that can be stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from quantexp.quant.flows.graph_layers import DEQUANTIZE, Placed, exported_layers, held, hold_as_parameters, origin
from quantexp.quant.flows.multipliers import operands
from quantexp.quant.flows.qparams import qparams, write_qparams
from quantexp.quant.inspection.dequantized import Call, Grid
from quantexp.quant.inspection.layers import HeldWeights
from quantexp.tasks.inputs import Batch

QUANTIZE = "quantized_decomposed.quantize"
RELU = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


class QdqNetwork(nn.Module):
    """The Q/DQ graph: float32 inputs and outputs, int8 weights.

    Args:
        converted: The result of `convert_pt2e`.
    """

    qparams: Tensor

    def __init__(self, converted: fx.GraphModule) -> None:
        super().__init__()
        for node in list(converted.graph.nodes):
            if node.op == "call_module":  # a guard of the export
                converted.graph.erase_node(node)
        self.layers = tuple(_placed(converted))
        self.program = fx.GraphModule(converted, converted.graph)  # copies only the tensors that the graph uses
        self.program.requires_grad_(False)
        hold_as_parameters(self.program, self.layers)
        self.register_buffer("qparams", qparams([self.program]))
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]
        self.eval()

    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.program(*batch)
        return logits

    def train(self, mode: bool = True) -> QdqNetwork:
        """Only set `training`: the modes of dropout and batch normalisation are fixed in the graph."""
        self.training = mode
        return self

    def held_weights(self) -> Iterator[HeldWeights]:
        """Yield the weights of the layers: int8 or float."""
        yield from held(self, self.layers, self.program.state_dict())

    def weight_names(self) -> dict[str, str]:
        """Return the name of the weight of each layer in this module."""
        return {layer.name: f"program.{layer.weight}" for layer in self.layers}

    def layer_calls(self, batch: Batch) -> dict[str, list[Call]]:
        """Return the inputs and outputs of each layer when the network runs on `batch`."""
        run = _Run(self.program, self.layers)
        run.run(*batch)
        return run.found


def _refresh(network: QdqNetwork, _: object) -> None:
    """Write the loaded qparams into the graph."""
    write_qparams([network.program], network.qparams)


def _placed(converted: fx.GraphModule) -> Iterator[Placed]:
    """Yield the layers of the graph, with their names in the exported network."""
    nodes = {node.name: node for node in converted.graph.nodes}
    for layer in exported_layers(converted):
        operated = operands(nodes[layer.node])
        quantized = operated is not None and origin(operated.weight)[1]
        scale = origin(operated.weight.args[1])[0] if operated and quantized else None
        bias = origin(operated.bias)[0] if operated else None
        yield Placed(layer.name, layer.kind, layer.node, layer.weight, bias, scale)


class _Run(fx.Interpreter):
    """An interpreter that records the calls of multiplying layers.

    The output of a layer is the tensor that is passed on: after its ReLU, and rounded if the next operator takes it
    rounded. Tensors are copied when they are recorded, because the network may change them in place later.
    """

    def __init__(self, program: fx.GraphModule, layers: tuple[Placed, ...]) -> None:
        super().__init__(program, garbage_collect_values=False)  # inputs of quantize are read later
        nodes = {node.name: node for node in program.graph.nodes}
        self.names = {nodes[layer.node]: layer.name for layer in layers if operands(nodes[layer.node])}
        self.ends = {end: (node, rectified) for node in self.names for end, rectified in [_end(node)]}
        self.layer_inputs: dict[fx.Node, tuple[Tensor, Grid | None]] = {}
        self.found: dict[str, list[Call]] = {layer.name: [] for layer in layers}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and record it if it begins or ends a multiplying layer."""
        result = super().run_node(n)
        if n in self.names and (operated := operands(n)):
            self.layer_inputs[n] = self._inputs(operated.inputs)
        if n in self.ends:
            layer, rectified = self.ends[n]
            inputs, grid = self.layer_inputs[layer]
            self.found[self.names[layer]].append(Call(inputs, result.clone(), grid, rectified))
        return result

    def _inputs(self, source: Any) -> tuple[Tensor, Grid | None]:
        if not str(source.target).startswith(f"{DEQUANTIZE}_per_tensor"):
            return self.env[source].clone(), None
        rounded, scale, zero_point, low, high = source.args[:5]
        if isinstance(scale, fx.Node):  # computed in each call: as in other flows, the layer rounds its inputs itself
            return self.env[rounded.args[0]].clone(), None
        return self.env[source].clone(), Grid(scale, zero_point, low, high)


def _end(layer: fx.Node) -> tuple[fx.Node, bool]:
    """Return the node with the output of a layer, and whether it includes ReLU."""
    end, node, rectified = layer, layer, False
    while node.users:
        user = next(iter(node.users))
        if len(node.users) > 1 and not str(user.target).startswith(DEQUANTIZE):
            break  # several operators use this tensor
        if user.target in RELU:
            end, rectified = user, True
        elif str(user.target).startswith(DEQUANTIZE):
            end = user
        elif not str(user.target).startswith(QUANTIZE):
            break
        node = user
    return end, rectified

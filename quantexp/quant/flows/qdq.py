"""A network that PT2E converted, as it is: float operators between pairs of quantize and dequantize.

It runs in eager execution, slowly, and computes what the integer kernels compute that a compiler makes of it. Here
the graph loses what it no longer reads, the float weights above all, and gets a state that can be stored.
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
from quantexp.quant.inspection.evidence import HeldWeights
from quantexp.tasks.inputs import Batch

QUANTIZE = "quantized_decomposed.quantize"
RELU = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


class QdqNetwork(nn.Module):
    """The Q/DQ graph: float32 in and out, int8 weights.

    Args:
        converted: What `convert_pt2e` gave.
    """

    qparams: Tensor

    def __init__(self, converted: fx.GraphModule) -> None:
        super().__init__()
        for node in list(converted.graph.nodes):
            if node.op == "call_module":  # the guards of the export
                converted.graph.erase_node(node)
        self.layers = tuple(_placed(converted))
        self.program = fx.GraphModule(converted, converted.graph)  # takes over only what the graph reads
        self.program.requires_grad_(False)
        hold_as_parameters(self.program, self.layers)
        self.register_buffer("qparams", qparams([self.program]))
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]
        self.eval()

    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.program(*batch)
        return logits

    def train(self, mode: bool = True) -> QdqNetwork:
        """Change nothing: dropout and batch normalisation stand in the graph as they were when it was converted."""
        self.training = mode
        return self

    def held_weights(self) -> Iterator[HeldWeights]:
        """Yield the weights of the layers: int8, or float."""
        yield from held(self, self.layers, self.program.state_dict())

    def layer_calls(self, batch: Batch) -> dict[str, list[Call]]:
        """Return what each layer takes and gives when the network runs on `batch`."""
        run = _Run(self.program, self.layers)
        run.run(*batch)
        return run.found


def _refresh(network: QdqNetwork, _: object) -> None:
    """Write the qparams of a state that was loaded into the graph."""
    write_qparams([network.program], network.qparams)


def _placed(converted: fx.GraphModule) -> Iterator[Placed]:
    """Yield the layers of the graph by the names that they had in the network that was exported."""
    nodes = {node.name: node for node in converted.graph.nodes}
    for layer in exported_layers(converted):
        taken = operands(nodes[layer.node])
        quantized = taken is not None and origin(taken.weight)[1]
        scale = origin(taken.weight.args[1])[0] if taken and quantized else None
        bias = origin(taken.bias)[0] if taken else None
        yield Placed(layer.name, layer.kind, layer.node, layer.weight, bias, scale)


class _Run(fx.Interpreter):
    """Runs the graph and keeps the calls of its layers that multiply.

    What a layer gives is what goes on: behind its ReLU, and rounded if that is what the next operator takes. Tensors
    are copied when they are read, as the network may change them in place later.
    """

    def __init__(self, program: fx.GraphModule, layers: tuple[Placed, ...]) -> None:
        super().__init__(program, garbage_collect_values=False)  # what went into quantize is looked at later
        nodes = {node.name: node for node in program.graph.nodes}
        self.names = {nodes[layer.node]: layer.name for layer in layers if operands(nodes[layer.node])}
        self.ends = {end: (node, rectified) for node in self.names for end, rectified in [_end(node)]}
        self.taken: dict[fx.Node, tuple[Tensor, Grid | None]] = {}
        self.found: dict[str, list[Call]] = {layer.name: [] for layer in layers}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.names and (taken := operands(n)):
            self.taken[n] = self._inputs(taken.inputs)
        if n in self.ends:
            layer, rectified = self.ends[n]
            inputs, grid = self.taken[layer]
            self.found[self.names[layer]].append(Call(inputs, result.clone(), grid, rectified))
        return result

    def _inputs(self, source: Any) -> tuple[Tensor, Grid | None]:
        if not str(source.target).startswith(f"{DEQUANTIZE}_per_tensor"):
            return self.env[source].clone(), None
        rounded, scale, zero_point, low, high = source.args[:5]
        if isinstance(scale, fx.Node):  # found at each call: what is rounded belongs to the layer, as in other flows
            return self.env[rounded.args[0]].clone(), None
        return self.env[source].clone(), Grid(scale, zero_point, low, high)


def _end(layer: fx.Node) -> tuple[fx.Node, bool]:
    """Return the node whose result is what a layer gives, and whether ReLU is in it."""
    end, node, rectified = layer, layer, False
    while node.users:
        behind = next(iter(node.users))
        if len(node.users) > 1 and not str(behind.target).startswith(DEQUANTIZE):
            break  # several go on from here
        if behind.target in RELU:
            end, rectified = behind, True
        elif str(behind.target).startswith(DEQUANTIZE):
            end = behind
        elif not str(behind.target).startswith(QUANTIZE):
            break
        node = behind
    return end, rectified

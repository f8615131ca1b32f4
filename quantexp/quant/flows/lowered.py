"""A network that PT2E converted, lowered to the integer kernels of onednn.

The result of `convert_pt2e` computes in float between pairs of quantize and dequantize. The freezing passes of Inductor
replace these by operators of onednn, and need no compiler. The graph is then split into two:

    constants   has no inputs; packs the int8 weights for the kernels
    program     takes the inputs and the outputs of `constants`

Packed weights can neither be copied nor stored. So the state has the unpacked weights, and every copy packs them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._inductor.fx_passes.freezing_patterns import freezing_passes

from quantexp.quant.flows.graph_layers import exported_layers, held, hold_as_parameters, placed
from quantexp.quant.flows.lowered_calls import calls
from quantexp.quant.flows.qparams import qparams, write_qparams
from quantexp.quant.inspection.dequantized import Call
from quantexp.quant.inspection.layers import HeldWeights
from quantexp.tasks.inputs import Batch

aten = torch.ops.aten
RECURRENT = (  # a decomposed layer has a copy of its weights for each step
    aten.lstm.input,
    aten.gru.input,
    aten.rnn_tanh.input,
    aten.rnn_relu.input,
)
VIEWS = (aten.view.default, aten._unsafe_view.default)  # the patterns only match reshape


def any_batch(example: Batch) -> tuple[dict[int, Any], ...]:
    """Return the dynamic shapes to export a network for batches of any size."""
    return tuple({0: torch.export.Dim.DYNAMIC} for _ in example)


class Lowered(nn.Module):
    """The lowered network: float32 inputs and outputs, int8 in between.

    Args:
        converted: The result of `convert_pt2e`.
        example: A batch of at least two examples; its values do not matter.
    """

    def __init__(self, converted: fx.GraphModule, example: Batch) -> None:
        super().__init__()
        exported = list(exported_layers(converted))
        graph = _lower(converted.requires_grad_(False), example)
        self.layers = tuple(placed(graph, exported))
        self.constants, self.program = _split(graph)
        hold_as_parameters(self.constants, self.layers)
        self.register_buffer("qparams", qparams((self.constants, self.program)))
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]
        self.eval()
        self._pack()
        self._unlowered = [converted]  # a list, so that it is no part of the network

    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.program(*batch, *self.packed)
        return logits

    def unlowered(self) -> fx.GraphModule | None:
        """Return the graph that was lowered, which computes the same with float kernels; a copy has none."""
        return self._unlowered[0] if self._unlowered else None

    def held_weights(self) -> Iterator[HeldWeights]:
        """Yield the weights of the layers, as the operators use them: int8 or float."""
        yield from held(self, self.layers, self.constants.state_dict())

    def layer_calls(self, batch: Batch) -> dict[str, list[Call]]:
        """Return the inputs and outputs of each layer when the network runs on `batch`."""
        return calls(self.program, {layer.node: layer.name for layer in self.layers}, (*batch, *self.packed))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": (), "_unlowered": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack()

    @torch.no_grad()
    def _pack(self) -> None:
        self.packed: tuple[Tensor, ...] = tuple(self.constants())

    qparams: Tensor


def _refresh(lowered: Lowered, _: object) -> None:
    """Write the loaded qparams into the graphs, and pack the loaded weights."""
    write_qparams((lowered.constants, lowered.program), lowered.qparams)
    lowered._pack()


def _lower(converted: fx.GraphModule, example: Batch) -> fx.GraphModule:
    """Replace float operators between quantize and dequantize by those of onednn, for batches of any size."""
    exported = torch.export.export(converted, example, dynamic_shapes=any_batch(example))
    _lay_out_rows(exported.graph_module.graph)
    graph: fx.GraphModule = exported.run_decompositions(_composite_decompositions()).module()
    for node in list(graph.graph.nodes):
        if node.op == "call_module":  # a guard of the export
            graph.graph.erase_node(node)
        elif node.target is aten.t.default:  # the patterns only match permute
            with graph.graph.inserting_before(node):
                permuted = graph.graph.call_function(aten.permute.default, (node.args[0], [1, 0]))
            node.replace_all_uses_with(permuted)
            graph.graph.erase_node(node)
        elif node.target in VIEWS:  # convolutions return tensors in channels-last format
            node.target = aten.reshape.default
    graph.recompile()
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    freezing_passes(graph, inputs)
    return graph


def _lay_out_rows(graph: fx.Graph) -> None:
    """Make the inputs of Linear layers contiguous before they are quantized, as those of several dimensions must be.

    Else the decomposition of Linear is a product that the patterns do not match, as after a batch-first LSTM.
    """
    for node in list(graph.nodes):
        if node.target is not aten.linear.default:
            continue
        source = node.args[0]
        while source.op == "call_function" and str(source.target).startswith("quantized_decomposed."):
            source = source.args[0]
        if source.meta["val"].dim() < 3 or source.op != "call_function":
            continue
        with graph.inserting_after(source):
            rows = graph.call_function(aten.contiguous.default, (source,))
        rows.meta = dict(source.meta)
        source.replace_all_uses_with(rows, delete_user_cb=lambda user, rows=rows: user is not rows)


def _composite_decompositions() -> dict[Any, Any]:
    """Return the decompositions of composite operators only, as the patterns require; recurrent layers stay whole."""
    table = torch.export.default_decompositions()
    for operator in list(table):
        if not torch._export.utils._is_cia_op(operator) or operator in RECURRENT:
            del table[operator]
    return dict(table)


def _split(graph: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the graph of constants, and the graph of the rest, which takes the constants after its inputs."""
    nodes = list(graph.graph.nodes)
    varying: set[fx.Node] = set()
    for node in nodes:
        if node.op in ("placeholder", "output") or varying & set(node.all_input_nodes):
            varying.add(node)
    shared = [node for node in nodes if node not in varying and any(user in varying for user in node.users)]
    before, after = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node not in varying:
            copies[node] = before.node_copy(node, copies.__getitem__)
    before.output(tuple(copies[node] for node in shared))
    copies = {node: after.node_copy(node) for node in nodes if node.op == "placeholder"}
    for node in shared:
        copies[node] = after.placeholder(f"{node.name}_packed")
    for node in nodes:
        if node.op == "output":
            (logits,) = node.args[0]
            after.output(copies[logits])
        elif node in varying and node.op != "placeholder":
            copies[node] = after.node_copy(node, copies.__getitem__)
    return fx.GraphModule(graph, before), fx.GraphModule(nn.Module(), after)

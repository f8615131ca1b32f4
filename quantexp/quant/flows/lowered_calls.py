"""The inputs and outputs of the layers of a lowered program, recorded while its nodes run.

Floats are copied when they are recorded, because an addition that is fused into a layer overwrites its operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from quantexp.quant.flows.multipliers import Operands, arguments, operands
from quantexp.quant.inspection.dequantized import Call, Grid

QUANTIZE = "quantized_decomposed.quantize_per_tensor"
BYTE = (0, 255)  # the range that the kernels clamp their outputs to
POST_OPS = ("binary_post_op", "binary_attr", "post_op_name", "attr")  # the names of the fused operator in the schemas


def calls(program: fx.GraphModule, layers: Mapping[str, str], inputs: Sequence[Tensor]) -> dict[str, list[Call]]:
    """Run `program` on `inputs` and return the calls of its multiplying layers; `layers` has their names by node."""
    run = _Run(program, layers)
    run.run(*inputs)
    return run.found


class _Run(fx.Interpreter):
    """An interpreter that records the calls of multiplying layers."""

    def __init__(self, program: fx.GraphModule, layers: Mapping[str, str]) -> None:
        super().__init__(program, garbage_collect_values=False)  # inputs of quantize are read later
        self.layers = layers
        self.found: dict[str, list[Call]] = {name: [] for name in layers.values()}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and record it if it is a multiplying layer."""
        result = super().run_node(n)
        if n.name in self.layers and (operated := operands(n)):
            self.found[self.layers[n.name]].append(self._call(n, operated, result))
        return result

    def _call(self, node: fx.Node, operated: Operands, result: Tensor) -> Call:
        named, source = arguments(node), operated.inputs
        after = next((named[key] for key in POST_OPS if named.get(key)), "none")
        output: Tensor | None = result.clone() if after in ("none", "relu") else None
        if output is not None and not output.is_floating_point():
            output = (output.float() - named["output_zero_point"]) * named["output_scale"]
        rectified = bool(after == "relu")
        if "qx" not in named:
            return Call(self.env[source].clone(), output, None, rectified)
        scale, zero_point = named["x_scale"], named["x_zero_point"]
        if isinstance(scale, fx.Node):  # computed in each call: as in other flows, the layer rounds its inputs itself
            return Call(self.env[source.args[0]].clone(), output, None, rectified)
        values = (self.env[source].float() - zero_point) * scale
        return Call(values, output, Grid(scale, zero_point, *_bounds(source)), rectified)


def _bounds(node: fx.Node) -> tuple[int, int]:
    """Return the smallest and largest integer of the inputs of a layer, from the node that quantized them."""
    while node.op == "call_function" and not str(node.target).startswith(("onednn.", QUANTIZE)):
        before = node.args[0]
        if not isinstance(before, fx.Node):
            break
        node = before
    if str(node.target).startswith(QUANTIZE):
        low, high = node.args[3:5]
        return int(low), int(high)  # type: ignore[arg-type]
    return BYTE

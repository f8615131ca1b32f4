"""The operators of a graph that multiply with weights, and their operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch._inductor.fx_passes.freezing_patterns  # declares the operators of onednn and mkldnn
from torch import fx

aten, mkldnn, onednn = torch.ops.aten, torch.ops.mkldnn, torch.ops.onednn
MULTIPLIERS = {
    *(onednn.qlinear_pointwise, onednn.qconv_pointwise, onednn.qconv2d_pointwise),
    *(mkldnn._linear_pointwise, mkldnn._convolution_pointwise, mkldnn._convolution_pointwise_),
    *(aten.linear, aten.convolution, aten.conv1d, aten.conv2d, aten.conv3d, aten.mm, aten.addmm),
}
# The names of the operands in the schemas; those of mm and addmm begin with `self`.
INPUTS, WEIGHTS, BIASES = ("qx", "X", "input", "mat1", "self"), ("qw", "W", "weight", "mat2"), ("bias", "B", "self")


@dataclass(frozen=True)
class Operands:
    """The operands of a node: its inputs, its weight, and its bias if there is one.

    `scale` is the scale of an integer weight, None for a float weight.
    """

    inputs: Any
    weight: Any
    bias: Any
    scale: Any


def operands(node: fx.Node) -> Operands | None:
    """Return the operands of a node, None if it does not multiply."""
    if getattr(node.target, "overloadpacket", None) not in MULTIPLIERS:
        return None
    named = arguments(node)
    inputs = next(name for name in INPUTS if name in named)
    bias = next((name for name in BIASES if name in named and name != inputs), None)
    weight = next(name for name in WEIGHTS if name in named)
    return Operands(named[inputs], named[weight], named[bias] if bias else None, named.get("w_scale"))


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a node by their names in the schema of its operator."""
    operator: Any = node.target
    return dict(zip((argument.name for argument in operator._schema.arguments), node.args, strict=False))

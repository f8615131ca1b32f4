"""The multiply-accumulates of operators, from the shapes of what they take and return, in any precision.

Positions do not count: padding counts as values, and masked attention counts all pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quantexp.quant.inspection.no_products import multiplies_nothing

PRODUCTS = (  # each value of the result is a sum over the last dimension of the first argument
    *("aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot", "aten.linear", "aten.mkldnn_linear"),
    *("aten._scaled_mm", "aten._grouped_mm", "aten._int_mm", "aten._weight_int8pack_mm", "aten.affine_grid_generator"),
    *("aten._weight_int4pack_mm_for_cpu", "aten._dyn_quant_matmul_4bit", "quantized.int4mm_packed_weight_cpu"),
    *("quantized.matmul", "mkl._mkl_linear"),
)
ADDED_PRODUCTS = ("aten.addmm", "aten.baddbmm", "aten.addmv", "aten._addmm_activation", "aten._sparse_addmm")
LINEAR = ("quantized.linear", "onednn.qlinear", "onednn.linear", "sparse.qlinear", "mkldnn._linear")  # and a suffix
CONVOLUTIONS = (  # and a suffix
    *("aten.convolution", "aten._convolution", "aten.mkldnn_convolution", "aten.slow_conv", "aten._slow_conv"),
    *("aten._nnpack_spatial_convolution", "aten.conv_depthwise", "aten._conv_depthwise", "mkldnn._convolution"),
    *("quantized.conv", "onednn.qconv", "torchvision.deform_conv2d"),
)
SCALED_ATTENTION = "aten._scaled_dot_product"  # and a suffix
ATTENTION_LAYERS = ("aten._transformer_encoder_layer_fwd", "aten._native_multi_head_attention")
QUANTIZED_RECURRENT = ("aten.quantized_lstm", "aten.quantized_gru")
GATES = {"lstm": 4, "gru": 3}  # others have one
LSTM, GRU = 2, 3  # the `mode` in aten.mkldnn_rnn_layer
GATES_OF_MODE = {LSTM: 4, GRU: 3}


@dataclass(frozen=True)
class Call:
    """A call of an operator: `aten.addmm` for all overloads of it, in place or not."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    @functools.cached_property
    def name(self) -> str:
        """The namespace and the name, without the overload and without the underscore of in-place operators."""
        return ".".join(str(self.func).split(".")[:2]).rstrip("_")

    @functools.cached_property
    def named(self) -> dict[str, Any]:
        """The arguments by their names in the schema."""
        names = (argument.name for argument in self.func._schema.arguments)
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}


def macs(call: Call) -> int | None:
    """Return the multiply-accumulates of a call, 0 if it multiplies nothing, None if that is not known."""
    formula = _formula(call.name)
    if formula is None:
        if multiplies_nothing(call.func) or not _takes_floats(call):
            return 0
        formula = _registered
    try:
        return formula(call)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):  # nested tensors have no plain shape
        return None


Formula = Callable[[Call], int | None]


@functools.cache
def _formula(name: str) -> Formula | None:
    if name.endswith(("prepack", "unpack")):
        return None
    exact: dict[str, Formula] = {
        **dict.fromkeys(PRODUCTS, _of_matrices),
        **dict.fromkeys(ADDED_PRODUCTS, functools.partial(_of_matrices, at=1)),
        **dict.fromkeys(ATTENTION_LAYERS, _of_attention_layer),
        **dict.fromkeys(QUANTIZED_RECURRENT, _of_recurrent_layers),
        "aten.addbmm": _of_summed_matrices,
        "aten.addr": _of_result,
        "aten._trilinear": _of_bilinear,
        "aten.conv_tbc": _of_convolution_in_time,
        "aten.mkldnn_rnn_layer": _of_recurrent_layer,
        "mkldnn._convolution_transpose_pointwise": _of_packed_transposed_convolution,
    }
    if name in exact:
        return exact[name]
    if name.startswith("quantized.quantized_") and name.endswith("_cell_dynamic"):
        return _of_cell
    for start, formula in ((LINEAR, _of_matrices), (CONVOLUTIONS, _of_convolution), (SCALED_ATTENTION, _of_attention)):
        if name.startswith(start) and not name.endswith("backward"):
            return formula
    return None


def _takes_floats(call: Call) -> bool:
    tensors = (leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor))
    return any(tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized for tensor in tensors)


def _registered(call: Call) -> int | None:
    """Return half of what a formula of `torch.utils.flop_counter` counts, None if it has none for the operator."""
    from torch.utils.flop_counter import flop_registry  # imports a compiler that takes 75 MB

    formula = flop_registry.get(getattr(call.func, "overloadpacket", None))  # users can add to it at any time
    return formula and int(formula(*call.args, **call.kwargs, out_val=call.result)) // 2


def _of_result(call: Call) -> int:
    return int(call.result.numel())


def _of_matrices(call: Call, at: int = 0) -> int:
    """Count a product with the argument at a position, each of whose rows is multiplied with each column."""
    left, result = call.args[at], call.result
    if left.layout is torch.strided or left.is_mkldnn:
        return int(result.numel() * left.shape[-1])
    return int(left._nnz() * result.shape[-1])  # sparse; a compressed layout that has no _nnz is not known


def _of_summed_matrices(call: Call) -> int:
    return int(call.args[1].numel() * call.result.shape[-1])


def _of_bilinear(call: Call) -> int:
    """Count each weight once an example, over the dimensions that the three inputs have together."""
    spread = []
    for tensor, added in zip(call.args[:3], call.args[3:6], strict=True):
        for dimension in added:
            tensor = tensor.unsqueeze(dimension)
        spread.append(tensor.shape)
    return math.prod(torch.broadcast_shapes(*spread))  # type: ignore[no-untyped-call]


def _of_convolution(call: Call) -> int:
    packed = call.args[1]
    if hasattr(packed, "unpack"):
        weight, is_transposed = packed.unpack()[0], "transpose" in call.name
    else:
        weight = next(call.named[key] for key in ("qw", "W", "weight") if key in call.named)
        is_transposed = "transpose" in call.name or bool(call.named.get("transposed"))
    values = call.args[0] if is_transposed else call.result  # the weight of a transposed one: (input channels, ...)
    return int(values.numel() * math.prod(weight.shape[1:]))


def _of_packed_transposed_convolution(call: Call) -> int:
    """Count one whose packed weight is (output channels, input channels of a group, kernel)."""
    outputs, _, *kernel = call.args[1].shape
    return int(call.args[0].numel() * (outputs // call.named["groups"]) * math.prod(kernel))


def _of_convolution_in_time(call: Call) -> int:
    kernel, channels, _ = call.args[1].shape
    return int(call.result.numel() * kernel * channels)


def _of_recurrent_layer(call: Call) -> int:
    """Count all gates with the inputs and the state, in one direction."""
    steps, examples, width = call.named["input"].shape
    hidden = int(call.named["hidden_size"])
    gates = GATES_OF_MODE.get(int(call.named["mode"]), 1)
    return int(steps * examples) * gates * hidden * int(width + hidden)


def _of_recurrent_layers(call: Call) -> int:
    """Count all layers and directions of a quantized LSTM or GRU, whose inputs can be packed sequences."""
    inputs, state = call.args[0], call.named["hx"]
    width, hidden = inputs.shape[-1], (state if isinstance(state, Tensor) else state[0]).shape[-1]
    directions = 2 if call.named["bidirectional"] else 1
    widths = [width, *[hidden * directions] * (int(call.named["num_layers"]) - 1)]
    weights = directions * _gates(call.name) * hidden * sum(width + hidden for width in widths)
    return int(inputs.numel() // inputs.shape[-1] * weights)


def _of_cell(call: Call) -> int:
    inputs, state = call.args[:2]
    hidden = (state if isinstance(state, Tensor) else state[0]).shape[-1]
    rows = inputs.numel() // inputs.shape[-1]
    return int(rows * _gates(call.name) * hidden * (inputs.shape[-1] + hidden))


def _gates(name: str) -> int:
    return next((gates for kind, gates in GATES.items() if kind in name), 1)


def _of_attention(call: Call) -> int:
    """Count queries with keys, and weights with values; heads that share keys and values count by the queries."""
    query, key, value = call.args[:3]
    return int(query.numel() // query.shape[-1] * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _of_attention_layer(call: Call) -> int:
    """Count four projections, two attention products, and the feed-forward network."""
    inputs = call.args[0]
    examples, length, width = inputs.shape if inputs.dim() == 3 else (1, *inputs.shape)
    feed_forward = 2 * width * int(call.named["ffn_weight_1"].shape[0]) if "ffn_weight_1" in call.named else 0
    return int(examples * length * (4 * width * width + 2 * length * width + feed_forward))

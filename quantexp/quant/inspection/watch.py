"""The multiplying operators that run, with their precision and their multiply-accumulates.

A dispatch mode records them below autocast and below all modules, where only the operators arrive that the CPU really
executes. This works in eager execution and in compiled programs, except for products in generated code.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from quantexp.results import Operator

NAMES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.qint8: "int8",
    torch.quint8: "int8",
    torch.int8: "int8",
    torch.int4: "int4",  # type: ignore[attr-defined]
}
PRODUCTS = (  # of floats, each value a sum over the last dimension of the inputs
    *("aten.mm", "aten.bmm", "aten.linear", "mkl._mkl_linear", "mkldnn._linear"),
    "aten._weight_int8pack_mm",  # its weights are converted to the float type of its inputs
)
ADDED_PRODUCTS = ("aten.addmm", "aten.baddbmm")
CONVOLUTIONS = ("aten.convolution", "mkldnn._convolution")
INT8 = ("quantized.linear", "quantized.conv", "onednn.qlinear", "onednn.qconv", "aten._int_mm")
INT4 = ("aten._weight_int4pack_mm_for_cpu", "quantized.int4mm_packed_weight_cpu")
LSTM = 2  # its `mode` in aten.mkldnn_rnn_layer
GATES = {LSTM: 4, 3: 3}  # 3 is GRU


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the multiplying operators that run and their multiply-accumulates, by the precision they run in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[tuple[str, str]] = Counter()
        self.macs: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.unknown: dict[str, None] = {}

    def operators(self, examples: int) -> tuple[Operator, ...]:
        """Return the operators recorded on a batch of `examples`; the multiply-accumulates are per example."""
        return tuple(
            Operator(name, precision, calls, self.macs[name, precision] // examples)
            for (name, precision), calls in self.calls.items()
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if torch.is_inference_mode_enabled() and _is_composite(func):
            with self:  # in inference mode composite operators are not decomposed before
                parts = func.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **named)
        name = ".".join(str(func).split(".")[:2])  # without the overload: quantized.conv2d_relu, not .new
        value = result[0] if isinstance(result, tuple | list) and result else result
        if isinstance(value, Tensor) and (macs := _macs(name, func, args, named, result)):
            precision = _precision(name, value)
            self.calls[name, precision] += 1
            self.macs[name, precision] += macs
        return result


def _is_composite(func: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _precision(name: str, value: Tensor) -> str:
    if name.startswith(INT8):
        return "fp16" if "fp16" in name else "int8"
    return "int4" if name in INT4 else NAMES.get(value.dtype, str(value.dtype))


def _macs(name: str, func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Return the multiply-accumulates of an operator that ran; 0 if it does not multiply."""
    if name.startswith((*INT8, *INT4, *CONVOLUTIONS, *PRODUCTS, *ADDED_PRODUCTS)) and isinstance(result, Tensor):
        return _of_weight(name, func, args, kwargs, result)
    if name == "aten.mkldnn_rnn_layer":
        return _of_recurrent_layer(func, args, kwargs)
    if name in ("aten._transformer_encoder_layer_fwd", "aten._native_multi_head_attention"):
        return _of_attention_layer(func, args, kwargs)
    if count := flop_registry.get(func.overloadpacket):  # attention, and other operators that torch counts
        return int(count(*args, **kwargs, out_val=result)) // 2
    return 0


def _of_weight(name: str, func: Any, args: Any, kwargs: Any, result: Tensor) -> int:
    if hasattr(args[1], "unpack"):  # weights packed for a kernel: (output channels, ...)
        return result.numel() * int(args[1].unpack()[0][0].numel())
    if "conv" not in name:
        return result.numel() * int(args[1 if name.startswith(ADDED_PRODUCTS) else 0].shape[-1])
    named = _named(func, args, kwargs)
    weight = next(named[key] for key in ("qw", "W", "weight") if key in named)
    transposed = "transpose" in name or named.get("transposed")  # its weight is (input channels, ...)
    values: Tensor = args[0] if transposed else result
    return values.numel() * int(math.prod(weight.shape[1:]))


def _of_recurrent_layer(func: Any, args: Any, kwargs: Any) -> int:
    """Return the multiply-accumulates of all gates with the inputs and the state, in one direction."""
    named = _named(func, args, kwargs)
    steps, examples, width = named["input"].shape
    hidden = int(named["hidden_size"])
    gates = GATES.get(int(named["mode"]), 1)
    return int(steps * examples) * gates * hidden * int(width + hidden)


def _of_attention_layer(func: Any, args: Any, kwargs: Any) -> int:
    """Return the multiply-accumulates of four projections, two attention products, and the feed-forward network."""
    named = _named(func, args, kwargs)
    inputs = args[0]
    examples, length, width = inputs.shape if inputs.dim() == 3 else (1, *inputs.shape)
    feed_forward = 2 * width * int(named["ffn_weight_1"].shape[0]) if "ffn_weight_1" in named else 0
    return int(examples * length * (4 * width * width + 2 * length * width + feed_forward))


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of an operator by their names in its schema."""
    return {**dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)), **kwargs}

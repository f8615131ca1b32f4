"""The multiplying operators that run, with their precision and their multiply-accumulates.

A dispatch mode records them below autocast and below all modules, where only the operators arrive that the CPU really
executes. This works in eager execution and in compiled programs, except for products in generated code.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils.weak import WeakIdKeyDictionary

from quantexp.quant.inspection.mode import Mode
from quantexp.quant.inspection.products import Call, macs
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
INT8 = (
    *("quantized.linear", "quantized.conv", "quantized.matmul", "onednn.qlinear", "onednn.qconv", "sparse.qlinear"),
    "aten._int_mm",
)
INT4 = ("aten._weight_int4pack_mm_for_cpu", "aten._dyn_quant_matmul_4bit", "quantized.int4mm_packed_weight_cpu")
RECURRENT = ("aten.quantized_lstm", "aten.quantized_gru")
SUMS = ("aten.sum", "aten.mean")


class Watch(Mode):
    """Count the multiplying operators that run and their multiply-accumulates, by the precision they run in.

    A product of matrices can also be written as a multiplication that spreads both operands, and a sum: (x[:, None] *
    weight).sum(-1). A weighted sum of the values of one tensor, such as a mean under a mask, is no product.
    `unknown` are the operators that may multiply, and whose multiply-accumulates are not known.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.macs: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.unknown: dict[str, None] = {}
        self._multiplied = WeakIdKeyDictionary()

    def operators(self, examples: int) -> tuple[Operator, ...]:
        """Return the operators recorded on a batch of `examples`; the multiply-accumulates are per example."""
        return tuple(
            Operator(name, precision, calls, self.macs[name, precision] // examples)
            for (name, precision), calls in self.calls.items()
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            self.unknown[str(func)] = None
            return func(*args, **named)
        if torch.is_inference_mode_enabled() and _is_composite(func):
            with self:  # in inference mode composite operators are not decomposed before
                parts = func.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **named)
        self.record(Call(func, args, named, result))
        return result

    def record(self, call: Call) -> None:
        """Count a call of an operator."""
        count = macs(call)
        if count is None:
            self.unknown[call.name] = None
        elif count:
            self.add(call.name, _precision(call), count)
        elif call.name == "aten.mul" and _spreads_both(call):
            self._multiplied[call.result] = None
        elif call.name in SUMS and call.args[0] in self._multiplied:
            self.add("aten.mul", NAMES.get(call.args[0].dtype, str(call.args[0].dtype)), call.args[0].numel())

    def add(self, name: str, precision: str, count: int) -> None:
        """Count a call with `count` multiply-accumulates."""
        self.calls[name, precision] += 1
        self.macs[name, precision] += count


def _is_composite(func: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _spreads_both(call: Call) -> bool:
    """Return whether each value of both operands is multiplied more than once."""
    one, other, result = call.args[0], call.args[1], call.result
    if not (isinstance(one, Tensor) and isinstance(other, Tensor) and result.is_floating_point()):
        return False
    return bool(result.numel() > max(one.numel(), other.numel()))


def _precision(call: Call) -> str:
    name = call.name
    if name.startswith("onednn.linear") or "fp16" in name:
        return "fp16"
    if name.startswith(INT8):
        return "int8"
    if name in INT4:
        return "int4"
    if name in RECURRENT:
        return "fp16" if call.named["params"][0].__getstate__()[0][0] == "quantized_fp16" else "int8"
    if name.startswith("quantized.quantized_"):  # a cell
        return "int8" if call.args[2].unpack()[0].is_quantized else "fp16"
    value = call.result[0] if isinstance(call.result, tuple | list) else call.result
    return NAMES.get(value.dtype, str(value.dtype))

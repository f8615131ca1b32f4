"""The quantized operators that run, each compared with float arithmetic on its dequantized operands.

A dispatch mode sees every operator, whether a module, a function or a graph calls it. The reference dequantizes the
inputs and the weights, computes in float32, and rounds the result to the grid of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from quantexp.quant.inspection.mode import Mode
from quantexp.quant.inspection.promise import Wrapper
from quantexp.statistics.sqnr import compared

ops = torch.ops.quantized
OFF_SHARE = 0.01  # of the values of an output, that may be more than a step from the reference
DYNAMIC_SQNR_DB = 30.0
RECURRENT_SQNR_DB = 20.0
Reference = Callable[..., Tensor]


@dataclass(frozen=True)
class Wrong:
    """A call of an operator that does not compute what its arithmetic says: the layer, the operator, and a figure."""

    layer: str
    operator: str
    text: str


class Arithmetic(Mode):
    """Compare the quantized operators that run; `names` has the modules by which they are called, the last inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.wrong: list[Wrong] = []
        self.names: list[str] = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        namespace, name, *_ = str(func).split(".")
        if namespace == "quantized" and isinstance(result, Tensor):
            operator = name.removesuffix("_fp16")
            if (reference := _reference(operator)) is not None:
                self.add(name, _difference(result, reference, args))
        return result

    def add(self, operator: str, text: str | None) -> None:
        """Count a call that was compared; `text` says how it differs, None if it is right."""
        self.seen += 1
        if text:
            self.wrong.append(Wrong(self.names[-1], operator, text))


@torch.no_grad()
def compare(network: nn.Module, batch: tuple[Tensor, ...]) -> Arithmetic:
    """Run `network` on a batch, and compare its quantized operators and recurrent layers."""
    arithmetic = Arithmetic()
    inner = network.model if isinstance(network, Wrapper) else network
    with _named(inner, arithmetic), arithmetic:
        network(*batch)
    return arithmetic


@contextmanager
def _named(network: nn.Module, arithmetic: Arithmetic) -> Iterator[None]:
    """Keep the name of the module that runs, and compare recurrent layers when they return."""
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        handles.append(module.register_forward_pre_hook(partial(_enter, arithmetic, name)))
        handles.append(module.register_forward_hook(partial(_leave, arithmetic), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(arithmetic: Arithmetic, name: str, module: nn.Module, inputs: Any) -> None:
    arithmetic.names.append(name)


def _leave(arithmetic: Arithmetic, module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
    if type(module).__module__ == "torch.ao.nn.quantized.dynamic.modules.rnn" and hasattr(module, "get_weight"):
        with torch.utils._python_dispatch._disable_current_modes():
            arithmetic.add(type(module).__name__, _recurrent_difference(module, inputs, named, output))
    arithmetic.names.pop()


def _difference(result: Tensor, reference: Reference, args: Any) -> str | None:
    """Return how the output of an operator differs from its arithmetic, None if it does not."""
    with torch.utils._python_dispatch._disable_current_modes():
        expected = reference(*args)
        if not result.is_quantized:
            _, ratio = compared(expected, result)
            return None if ratio >= DYNAMIC_SQNR_DB else f"SQNR {ratio:.1f} dB"
        bounds = torch.iinfo(result.dtype)
        steps = (expected / result.q_scale()).round() + result.q_zero_point()
        off = (steps.clamp(bounds.min, bounds.max) - result.int_repr()).abs() > 1
        share = float(off.double().mean()) if off.numel() else 0.0
        return None if share <= OFF_SHARE else f"{share:.0%} of its outputs are more than a step off"


def _reference(operator: str) -> Reference | None:
    """Return the arithmetic of an operator of torch.ao, None if it is not one that is compared."""
    rectified = operator.endswith(("_relu", "_relu_dynamic"))
    kind = operator.replace("_relu", "")
    dynamic = kind.endswith("_dynamic")
    kind = kind.removesuffix("_dynamic")
    if kind == "linear":
        reference: Reference = partial(_linear, dynamic)
    elif kind in CONVOLUTIONS:
        reference = partial(_convolution, kind, dynamic)
    elif kind in SIMPLE:
        reference = partial(_simple, SIMPLE[kind])
    else:
        return None
    return (lambda *args: reference(*args).relu()) if rectified else reference


def _linear(dynamic: bool, x: Tensor, packed: Any, *rest: Any) -> Tensor:
    weight, bias = packed.__getstate__()[0]
    inputs = x.dequantize() if not dynamic or not weight.is_quantized else _rounded(x, bool(rest and rest[0]))
    return functional.linear(inputs, weight.dequantize().float(), bias)


CONVOLUTIONS = {
    **{f"conv{count}d": (count, getattr(functional, f"conv{count}d")) for count in (1, 2, 3)},
    **{f"conv_transpose{count}d": (count, getattr(functional, f"conv_transpose{count}d")) for count in (1, 2, 3)},
}


def _convolution(kind: str, dynamic: bool, x: Tensor, packed: Any, *rest: Any) -> Tensor:
    count, function = CONVOLUTIONS[kind]
    weight, bias = getattr(ops, f"{kind}_unpack")(packed)
    about = max(count, 2)  # a convolution over one dimension is packed as one over two
    settings = {
        name: getattr(ops, f"conv{about}d_{name}")(packed)[-count:] for name in ("stride", "padding", "dilation")
    }
    if "transpose" in kind:
        settings["output_padding"] = getattr(ops, f"conv{about}d_output_padding")(packed)[-count:]
    inputs = _rounded(x, bool(rest and rest[0])) if dynamic else x.dequantize()
    groups = getattr(ops, f"conv{about}d_groups")(packed)
    result: Tensor = function(inputs, weight.dequantize(), bias, groups=groups, **settings)
    return result


def _rounded(x: Tensor, reduce_range: bool) -> Tensor:
    """Return the inputs of a dynamic layer rounded to the range of this call.

    In 7 bits if the range is reduced, which qnnpack ignores. The range is that of the inputs, so none is clipped.
    """
    scale, zero_point = torch._choose_qparams_per_tensor(x, reduce_range)
    return torch.fake_quantize_per_tensor_affine(x, scale, int(zero_point), 0, 255)


def _simple(function: Reference, *args: Any) -> Tensor:
    return function(*(value.dequantize() if isinstance(value, Tensor) else value for value in args))


# The arguments of an operator that is no product; the last two are the grid of the output.
SIMPLE: dict[str, Reference] = {
    "add": lambda x, y, *_: x + y,
    "mul": lambda x, y, *_: x * y,
    "layer_norm": lambda x, shape, weight, bias, eps, *_: functional.layer_norm(x, shape, weight, bias, eps),
    "group_norm": lambda x, groups, weight, bias, eps, *_: functional.group_norm(x, groups, weight, bias, eps),
    "instance_norm": lambda x, weight, bias, eps, *_: functional.instance_norm(x, weight=weight, bias=bias, eps=eps),
    "leaky_relu": lambda x, slope, *_: functional.leaky_relu(x, slope),
    "hardswish": lambda x, *_: functional.hardswish(x),
    "sigmoid": lambda x, *_: x.sigmoid(),
    **{
        f"batch_norm{dimensions}": lambda x, weight, bias, mean, var, eps, *_: functional.batch_norm(
            x, mean, var, weight, bias, eps=eps
        )
        for dimensions in ("", "1d", "2d", "3d")
    },
}


def _recurrent_difference(module: Any, inputs: Any, named: Any, output: Any) -> str | None:
    """Compare a recurrent layer as a whole with the float layer that has its dequantized weights."""
    cell = type(module).__name__.endswith("Cell")
    kinds = {"LSTM": nn.LSTM, "GRU": nn.GRU, "LSTMCell": nn.LSTMCell, "GRUCell": nn.GRUCell, "RNNCell": nn.RNNCell}
    kind: Any = kinds[type(module).__name__]
    if cell:
        settings = {"nonlinearity": module.nonlinearity} if kind is nn.RNNCell else {}
    else:
        names = ("num_layers", "batch_first", "bidirectional")
        settings = {name: getattr(module, name) for name in names}
    twin = kind(module.input_size, module.hidden_size, **settings)
    held = {**module.get_weight(), **module.get_bias()}
    twin.load_state_dict({name: tensor.dequantize().float() for name, tensor in held.items()})
    expected, found = (_first(result) for result in (twin(*inputs, **named), output))
    _, ratio = compared(expected, found)
    return None if ratio >= RECURRENT_SQNR_DB else f"SQNR {ratio:.1f} dB"


def _first(result: Any) -> Any:
    """Return the outputs of a recurrent layer, without its state."""
    value = result[0] if isinstance(result, tuple) else result
    return value.data if isinstance(value, PackedSequence) else value

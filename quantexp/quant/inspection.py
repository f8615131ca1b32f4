"""What really is in a quantized model, and what really runs when it predicts.

Layers are judged by the weights they hold, operators by a forward pass that is watched below autocast
and below every module, where only what the CPU is asked to do passes by.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from quantexp.errors import QuantizationError
from quantexp.quant.base import Promise, Quantized
from quantexp.report.results import Evidence, Layer, Operator

log = logging.getLogger(__name__)

NAMES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.qint8: "int8",
    torch.quint8: "int8",
    torch.int8: "int8",
}
FLOAT_MULTIPLIERS = ("aten.addmm", "aten.mm", "aten.bmm", "aten.baddbmm", "aten.convolution", "aten.linear")
INTEGER_MULTIPLIERS = ("quantized.linear", "quantized.conv", "onednn.qlinear", "onednn.qconv")


def inspect(quantized: Quantized, example: Tensor) -> Evidence:
    """Return what the model is made of and what ran on `example`.

    Raises:
        QuantizationError: If the model is not what its method promised.
    """
    layers = tuple(_layers(quantized.model))
    operators = _operators(quantized.model, example)
    lowers_layers = quantized.promise is not None and quantized.promise.layers is not None
    left = tuple(layer.name for layer in layers if layer.precision == "fp32") if lowers_layers else ()
    evidence = Evidence(layers, operators, left)
    if quantized.promise is not None:
        _hold(quantized.promise, evidence)
        log.info("inspect   %s", _summary(evidence))
    return evidence


def parameter_count(model: nn.Module) -> int:
    """Count the parameters, those that are packed inside quantized layers among them."""
    packed = sum(
        weight.numel() + (0 if bias is None else bias.numel()) for _, _, weight, bias in _weights(model, packed=True)
    )
    return packed + sum(parameter.numel() for parameter in model.parameters())


def _hold(promise: Promise, evidence: Evidence) -> None:
    layers = sorted({layer.precision for layer in evidence.layers}) or ["none"]
    ran = sorted({operator.precision for operator in evidence.operators}) or ["none"]
    if promise.layers is not None and promise.layers not in layers:
        raise QuantizationError(
            f"the method must leave {promise.layers} layers, it left {', '.join(layers)}; "
            f"it handles {promise.handles}: choose a model that has them"
        )
    if promise.operators is not None and promise.operators not in ran:
        raise QuantizationError(
            f"the model must run {promise.operators} operators, it ran {', '.join(ran)}; "
            f"the method handles {promise.handles}: choose a model that has them"
        )


def _summary(evidence: Evidence) -> str:
    """Say what the layers hold and what ran: `3 int8 layers; ran quantized.linear (int8) x1`."""
    layers = Counter(layer.precision for layer in evidence.layers)
    ran = (f"{operator.name} ({operator.precision}) x{operator.calls}" for operator in evidence.operators)
    return f"{', '.join(f'{count} {name} layers' for name, count in layers.items())}; ran {', '.join(ran)}"


def _layers(model: nn.Module) -> Iterator[Layer]:
    for name, module, weight, _ in _weights(model):
        stored = getattr(getattr(module, "_packed_params", None), "dtype", weight.dtype)
        yield Layer(name, type(module).__name__, NAMES.get(stored, str(stored)))


def _weights(model: nn.Module, *, packed: bool = False) -> Iterator[tuple[str, nn.Module, Tensor, Tensor | None]]:
    """Yield name, module, weight and bias of the layers; of those alone that pack them where `packed`."""
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if callable(weight):  # quantized layers unpack theirs on request
            yield name, module, weight(), bias() if callable(bias) else None
        elif isinstance(weight, Tensor) and not packed:
            yield name, module, weight, bias


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the multiplying operators that run, with the precision they run in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func).removesuffix(".default")
        if name.startswith(INTEGER_MULTIPLIERS):
            self.calls[name, "fp16" if "fp16" in name else "int8"] += 1
        elif name.startswith(FLOAT_MULTIPLIERS) and isinstance(result, Tensor):
            self.calls[name, NAMES.get(result.dtype, str(result.dtype))] += 1
        return result


@torch.no_grad()
def _operators(model: nn.Module, example: Tensor) -> tuple[Operator, ...]:
    with _Watch() as watch:
        model(example)
    return tuple(Operator(name, precision, calls) for (name, precision), calls in watch.calls.items())

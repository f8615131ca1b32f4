"""What really is in a quantized model, and what really runs when it predicts.

Layers are judged by the weights they hold, operators by a forward pass that is watched.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Engine
from quantexp.quant.inspection.promise import Promise, Quantized, Simulated, Wrapper
from quantexp.quant.inspection.watch import NAMES, Watch
from quantexp.results import Evidence, Layer, LeftInFloat, Operator, Profile, TimeShare
from quantexp.system.errors import QuantizationError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

PROFILED_CALLS = 5
SHOWN_SHARE = 0.005  # of the time; operators below are left out


@dataclass(frozen=True)
class HeldWeights:
    """The weight and bias of one layer, and the dtype that the weight is held in: packed ones unpack to another.

    `qscheme` is None for a layer that is not quantized. `scale` has one number a channel where the weight is held as
    bare integers, None where it knows its scales itself.
    """

    name: str
    kind: str
    module: nn.Module
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    qscheme: str | None = None
    scale: Tensor | None = None


def inspect(quantized: Quantized, ran: tuple[Operator, ...], engine: Engine | None = None) -> Evidence:
    """Return what the network is made of and what `ran`; its int8 weights are packed for `engine`.

    Raises:
        QuantizationError: If the network is not what its method promised.
    """
    promise = quantized.promise
    layers = tuple(_layers(quantized.model, engine))
    by_layer = promise is not None and promise.layers is not None
    left = tuple(_left_in_float(layers, promise)) if promise and by_layer else ()
    evidence = Evidence(layers, ran, left)
    if promise is not None:
        _hold(promise, evidence)
        log.info("inspect   %s", _summary(evidence))
    for layer in left:
        if promise and layer.name not in promise.kept:  # nobody asked for it
            log.warning("%s is left in float: %s", layer.name, layer.reason)
    return evidence


@torch.no_grad()
def operators(network: nn.Module, batch: Batch) -> tuple[Operator, ...]:
    """Return the multiplying operators that run on a batch, with their multiply-accumulates for one example."""
    watch = Watch()
    with watch:
        network(*batch)
    return watch.operators(size(batch))


@torch.inference_mode()
def profile(model: Callable[..., Any], batch: Batch) -> Profile:
    """Return where the time of a forward pass on `batch` goes; the caller has set the threads."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler writes to stderr that it starts and stops
    with torch.autograd.profiler.profile(use_kineto=False) as profiler:
        for _ in range(PROFILED_CALLS):
            model(*batch)
    spent = {event.key: float(event.self_cpu_time_total) for event in profiler.key_averages()}
    total = sum(spent.values()) or 1.0
    shares = sorted((TimeShare(name, time / total) for name, time in spent.items()), key=lambda one: -one.share)
    return Profile(size(batch), tuple(one for one in shares if one.share >= SHOWN_SHARE))


@torch.no_grad()
def float_operations(model: nn.Module, example: Batch) -> int:
    """Return the floating-point operations of a float model on one example, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(*example)
    return int(counter.get_total_flops()) // size(example)


def held_weights(model: nn.Module, *, packed: bool = False) -> Iterator[HeldWeights]:
    """Yield the weights of the layers; of those alone that pack them where `packed`."""
    network = model.model if isinstance(model, Wrapper) else model
    if own := getattr(network, "held_weights", None):  # a graph knows its layers itself, and packs none out of sight
        yield from () if packed else own()
        return
    for name, module in network.named_modules():
        kind = type(module).__name__
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if callable(weight):  # quantized layers unpack theirs on request
            unpacked = weight()
            held = getattr(getattr(module, "_packed_params", None), "dtype", unpacked.dtype)
            qscheme = str(unpacked.qscheme()).removeprefix("torch.") if unpacked.is_quantized else None
            yield HeldWeights(name, kind, module, unpacked, bias() if callable(bias) else None, held, qscheme)
        elif isinstance(weight, Tensor) and not packed:
            yield HeldWeights(_unfused(name, network), kind, module, weight, bias, *held_as(weight))


def held_as(weight: Tensor) -> tuple[torch.dtype, str | None]:
    """Return the dtype that the values of a weight are held in, and its qscheme; None if it is not quantized.

    A weight of torchao passes for a float one: its values are in `qdata`, two to a byte in int4.
    """
    values = getattr(weight, "qdata", None)
    if values is None:
        return weight.dtype, None
    rows, columns = weight.block_size  # type: ignore[attr-defined]
    granularity = "per_tensor" if rows > 1 else "per_channel" if columns == weight.shape[1] else "per_group"
    shifted = getattr(weight, "zero_point", None) if hasattr(weight, "zero_point") else values
    affine = shifted is not None and bool(shifted.any())
    halves = 2 * values.nbytes == weight.numel()
    dtype = torch.int4 if halves else values.dtype  # type: ignore[attr-defined]
    return dtype, f"{granularity}_{'affine' if affine else 'symmetric'}"


def _unfused(name: str, network: nn.Module) -> str:
    """Return the name that a layer had before torch.ao fused it with its activation: `0` for `0.0`."""
    parent, _, index = name.rpartition(".")
    fused = index == "0" and type(network.get_submodule(parent)).__module__.startswith("torch.ao.nn.intrinsic")
    return parent if fused else name


def _hold(promise: Promise, evidence: Evidence) -> None:
    layers = sorted({layer.precision for layer in evidence.layers}) or ["none"]
    ran = sorted({operator.precision for operator in evidence.operators}) or ["none"]
    kept = "".join(f"; {name}: {reason}" for name, reason in promise.excused.items())
    if promise.layers is not None and promise.layers not in layers:
        raise QuantizationError(
            f"the method must leave {promise.layers} layers, it left {', '.join(layers)}; "
            f"it handles {promise.handles}: choose a model that has them{kept}"
        )
    if promise.operators is not None and promise.operators not in ran:
        raise QuantizationError(
            f"the model must run {promise.operators} operators, it ran {', '.join(ran)}; "
            f"the method handles {promise.handles}: choose a model that has them"
        )


def _summary(evidence: Evidence) -> str:
    """Say what the layers hold and what ran: `3 int8 layers; ran quantized.linear (int8) x3; 100 % of the MACs`."""
    layers = Counter(layer.precision for layer in evidence.layers)
    held = (f"{count} {name} {'layer' if count == 1 else 'layers'}" for name, count in layers.items())
    ran = (f"{operator.name} ({operator.precision}) x{operator.calls}" for operator in evidence.operators)
    shares = (
        f"{evidence.mac_share(name):.0%} {name}" for name in sorted({one.precision for one in evidence.operators})
    )
    return f"{', '.join(held)}; ran {', '.join(ran)}; multiply-accumulates: {', '.join(shares)}"


def _layers(model: nn.Module, engine: Engine | None) -> Iterator[Layer]:
    simulated = {f"{name}.layer": one for name, one in model.named_modules() if isinstance(one, Simulated)}
    for one in held_weights(model):
        if (rounded := simulated.get(one.name)) and _bits(one.weight) <= rounded.weight_bits:
            yield Layer(one.name.removesuffix(".layer"), one.kind, "simulated", rounded.weight_bits)
            continue
        precision = NAMES.get(one.dtype, str(one.dtype))
        bits = 4 if precision == "int4" else 8 * one.dtype.itemsize
        packed_for = engine.value if engine and one.qscheme else None
        yield Layer(one.name, one.kind, precision, bits, one.qscheme, packed_for)


def _bits(weight: Tensor) -> int:
    """Return how many bits tell the values of any one channel of a weight apart."""
    levels = max(len(torch.unique(channel)) for channel in weight.detach())
    return math.ceil(math.log2(levels)) if levels > 1 else 1


def _left_in_float(layers: tuple[Layer, ...], promise: Promise) -> Iterator[LeftInFloat]:
    for layer in layers:
        if layer.precision == "fp32":
            rule = f"the method handles {promise.handles}"
            handled = f"nn.{layer.kind}" in promise.handles
            article = "an" if layer.kind[:1] in "AEIOU" else "a"
            unasked = f"left out, though {rule}" if handled else f"it is {article} {layer.kind}, {rule}"
            yield LeftInFloat(layer.name, promise.excused.get(layer.name, unasked))

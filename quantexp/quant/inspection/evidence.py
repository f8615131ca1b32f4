"""The evidence for a quantized network: the precision of its layers, and the operators that really run.

The precision of a layer is that of its weights; the operators are recorded in a forward pass.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Engine
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.inspection.promise import Promise, Quantized, Simulated
from quantexp.quant.inspection.watch import NAMES, Watch
from quantexp.results import Account, Evidence, Layer, LeftInFloat, Operator, Profile, TimeShare
from quantexp.results.text import grouped, listed, mac_share_text
from quantexp.system.errors import CheckError, QuantizationError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

PROFILED_CALLS = 5
SHOWN_UNKNOWN = 3  # operators
SHOWN_SHARE = 0.005  # of the time; operators below it are omitted


def inspect(
    quantized: Quantized,
    ran: tuple[Operator, ...],
    engine: Engine | None,
    account: Account,
    in_float: Mapping[str, str] | None = None,
) -> Evidence:
    """Return the evidence: the layers of the network, and the operators that `ran`.

    Args:
        quantized: The network, and what its method promises.
        ran: The operators that ran.
        engine: The engine that its int8 weights are packed for, None if it has none.
        account: The multiply-accumulates of the float network on the same batch.
        in_float: Why the runtime runs layers with quantized weights in float, by name.

    Raises:
        CheckError: If more multiply-accumulates ran in a precision than the account has.
        QuantizationError: If the method does not keep its promise.
    """
    promise = quantized.promise
    layers = tuple(_layers(quantized.model, engine))
    by_layer = promise is not None and promise.layers is not None
    left = tuple(_left_in_float(layers, promise)) if promise and by_layer else ()
    left += tuple(LeftInFloat(name, reason) for name, reason in (in_float or {}).items())
    evidence = Evidence(layers, ran, left, account)
    if promise is not None:
        _check(promise, evidence)
        _check_shares(evidence, account)
        log.info("inspect   %s", _summary(evidence))
    if promise:
        for names, reason in grouped([layer for layer in left if layer.name not in promise.kept]):  # not by the user
            log.warning("left in float: %s (%s)", names, reason)
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
    """Return the shares of the time of a forward pass on `batch`; the caller sets the threads first."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise torch's profiler writes to stderr
    with torch.autograd.profiler.profile(use_kineto=False) as profiler:
        for _ in range(PROFILED_CALLS):
            model(*batch)
    spent = {event.key: float(event.self_cpu_time_total) for event in profiler.key_averages()}
    total = sum(spent.values()) or 1.0
    shares = sorted((TimeShare(name, time / total) for name, time in spent.items()), key=lambda entry: -entry.share)
    return Profile(size(batch), tuple(entry for entry in shares if entry.share >= SHOWN_SHARE))


def _check(promise: Promise, evidence: Evidence) -> None:
    layers = sorted({layer.precision for layer in evidence.layers}) or ["none"]
    ran = sorted({operator.precision for operator in evidence.operators}) or ["none"]
    kept = "".join(f"; {name}: {reason}" for name, reason in promise.excused.items())
    if promise.layers is not None and promise.layers not in layers:
        raise QuantizationError(
            f"the quantized network must have {promise.layers} layers, it has {', '.join(layers)}; "
            f"the method handles {promise.handles}: use a model that has them{kept}"
        )
    if promise.layers is not None and (missing := set(promise.required) - set(evidence.held(promise.layers))):
        raise QuantizationError(
            f"the quantized network must have {promise.layers} weights in {listed(promise.required, SHOWN_UNKNOWN)}; "
            f"{listed(sorted(missing), SHOWN_UNKNOWN)} have others: keep these in float with quant.exclude"
        )
    if promise.operators is not None and promise.operators not in ran:
        raise QuantizationError(
            f"the quantized network must run {promise.operators} operators, it ran {', '.join(ran)}; "
            f"the method handles {promise.handles}: use a model that has them"
        )


def _check_shares(evidence: Evidence, account: Account) -> None:
    for precision in {operator.precision for operator in evidence.operators}:
        ran = evidence.macs(precision)
        if ran > account.macs and not account.unknown:
            raise CheckError(
                "macs",
                f"a quantized network must not multiply more than its float network: {ran:,} multiply-accumulates ran "
                f"in {precision}, the float network has {account.macs:,} in all for the same examples; either it "
                "depends on the values of its inputs which products run, or an operator is counted wrongly: make the "
                "forward pass the same for all inputs, or report this to the developers of quantexp",
            )


def _summary(evidence: Evidence) -> str:
    """Return a summary of layers and operators: `3 int8 layers; ran quantized.linear (int8) x3; 100 % of the MACs`."""
    layers = Counter(layer.precision for layer in evidence.layers)
    held = (f"{count} {name} {'layer' if count == 1 else 'layers'}" for name, count in layers.items())
    ran = (f"{operator.name} ({operator.precision}) x{operator.calls}" for operator in evidence.operators)
    names = sorted({operator.precision for operator in evidence.operators})
    shares = ", ".join(f"{mac_share_text(evidence, name)} {name}" for name in names)
    if evidence.account and evidence.account.unknown:
        shares = f"no share, the account does not know {listed(evidence.account.unknown, SHOWN_UNKNOWN)}"
    return f"{', '.join(held)}; ran {', '.join(ran)}; multiply-accumulates: {shares}"


def _layers(model: nn.Module, engine: Engine | None) -> Iterator[Layer]:
    simulated = {f"{name}.layer": module for name, module in model.named_modules() if isinstance(module, Simulated)}
    for held in held_weights(model):
        if (rounded := simulated.get(held.name)) and _bits(held.weight) <= rounded.weight_bits:
            yield Layer(held.name.removesuffix(".layer"), held.kind, "simulated", rounded.weight_bits)
            continue
        precision = NAMES.get(held.dtype, str(held.dtype))
        bits = 4 if precision == "int4" else 8 * held.dtype.itemsize
        packed_for = engine.value if engine and held.qscheme else None
        yield Layer(held.name, held.kind, precision, bits, held.qscheme, packed_for)


def _bits(weight: Tensor) -> int:
    """Return the bits that are needed for the different values of a channel, at most over all channels."""
    levels = max(len(torch.unique(channel)) for channel in weight.detach())
    return math.ceil(math.log2(levels)) if levels > 1 else 1


def _left_in_float(layers: tuple[Layer, ...], promise: Promise) -> Iterator[LeftInFloat]:
    for layer in layers:
        if layer.precision == "fp32":
            rule = f"the method handles {promise.handles}"
            handled = f"nn.{layer.kind}" in promise.handles
            reason = f"not quantized, although {rule}" if handled else f"{rule}, not {layer.kind}"
            yield LeftInFloat(layer.name, promise.excused.get(layer.name, reason))

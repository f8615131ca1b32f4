"""Which flow or method can quantize a network, found by trying it on a copy."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from quantexp.config import METHODS, ByLayer, Engine, Flow, Quant
from quantexp.quant.flows.working import working_copy
from quantexp.quant.inspection.layers import HeldWeights, held_weights
from quantexp.quant.inspection.watch import NAMES, Watch
from quantexp.quant.methods.work import Form, Work
from quantexp.quant.selection import kept_in_float
from quantexp.system.errors import ConfigError
from quantexp.system.garbage import collect_garbage
from quantexp.system.implementation import resolve

log = logging.getLogger(__name__)

PRECISIONS = ("int8", "bf16")  # that are tried when another method is looked for


def resolved(option: Quant, work: Work) -> Quant:
    """Return the method with the flow that is used, if `quant.flow` leaves it open.

    The flows are tried in the order of `option.flows`, on a copy of the network that is calibrated on the example. The
    first one that quantizes all layers that multiply is taken, else the one with most multiply-accumulates in the
    precision.

    Args:
        option: The method.
        work: The network, the form of the result, and the flows that the runtime executes.
    """
    if not isinstance(option, ByLayer) or option.flow is not None:
        return option
    precision = work.form.precision
    flows = [flow for flow in option.candidates(precision) if work.executes(type(option), flow)]
    candidates = [replace(option, flow=flow) for flow in flows]
    best, most = candidates[0], 0
    for candidate in candidates if len(candidates) > 1 else ():
        network = tried(candidate, work.baseline.model, work.form)
        if network is None:
            continue
        if (macs := _macs(network, work.form)) > most:
            best, most = candidate, macs
        if not any(_left(network, kept_in_float(option, work.baseline.model))):
            break
    if best is not candidates[0]:
        log.info("flow      %s: it quantizes more of this network than %s", best.flow, candidates[0].flow)
    return best


def advice(option: Quant, work: Work, layer: str = "") -> str:
    """Return what quantizes this network, as an override that was tried; the method of `option` cannot.

    Args:
        option: The method that failed.
        work: The network and the form of the result.
        layer: The layer where it failed, if it is known.
    """
    for typed, change, precision in _others(option, work, layer):
        form = replace(work.form, precision=precision)
        try:
            other = change()
        except ConfigError:  # that flow lacks a setting of the user
            continue
        network = tried(other, work.baseline.model, form)
        if network is None or not _macs(network, form):
            continue
        if work.judge is None or work.judge(other, replace(work, form=form, advise=False), network):
            return f"use {typed}, which quantizes this network"
    return "no other method quantizes this network either"


def in_flow(option: ByLayer, flow: Flow) -> tuple[str, Callable[[], ByLayer]]:
    """Return the override that changes the flow, and what makes the method: with the engine, if the flow has one."""
    if flow in option.levers.get("engine", ()):
        return f"quant.flow={flow}", partial(replace, option, flow=flow)
    left_out = " quant.engine=null" if option.engine not in (None, Engine.x86) else ""  # x86 was not typed
    return f"quant.flow={flow}{left_out}", partial(replace, option, flow=flow, engine=None)


def tried(option: Quant, model: nn.Module, form: Form) -> nn.Module | None:
    """Return a quantized copy of `model` that ran on the example, None if that failed."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            network: nn.Module = resolve(option.implementation).skeleton(option, working_copy(option, model), form)
            network(*form.example)
        except MemoryError:
            raise
        except Exception:  # the APIs can raise anything
            return None
        finally:
            collect_garbage()
    return network


def _others(option: Quant, work: Work, layer: str) -> Iterator[tuple[str, Callable[[], Quant], str]]:
    """Yield what may quantize the network instead: its override, what makes the method, and the precision."""
    precision = work.form.precision
    if isinstance(option, ByLayer):
        for flow, precisions in option.portable_flows().items():
            if flow is not option.flow and precision in precisions and work.executes(type(option), flow):
                yield *in_flow(option, flow), precision
        if layer in {held.name for held in held_weights(work.baseline.model)}:
            excluded = [*option.exclude, layer]
            yield f"quant.exclude=[{','.join(excluded)}]", partial(replace, option, exclude=excluded), precision
    for method in METHODS:
        if method.name == option.name or not method.timed:
            continue
        for other_precision in (name for name in PRECISIONS if name in method.precisions):
            given = f" precision={other_precision}" if other_precision != method.precisions[0] else ""
            if not issubclass(method, ByLayer):
                yield f"quant={method.name}{given}", method, other_precision
                continue
            for flow in (flow for flow in method.portable_flows() if work.executes(method, flow)):
                yield f"quant={method.name} quant.flow={flow}{given}", partial(method, flow=flow), other_precision


@torch.no_grad()
def _macs(network: nn.Module, form: Form) -> int:
    """Return the multiply-accumulates in the precision of the form, on its example.

    Where a runtime will compute in that precision, it is the weights that are counted, one for each.
    """
    with Watch() as watch:
        network(*form.example)
    macs = sum(count for (_, precision), count in watch.macs.items() if precision == form.precision)
    held = (layer for layer in held_weights(network) if NAMES.get(layer.dtype) == form.precision)
    return macs or sum(weight.numel() for layer in held for weight in layer.weights)


def _left(network: nn.Module, kept: Collection[str]) -> Iterator[HeldWeights]:
    """Yield the layers that multiply and were left in float, but not by the choice of the user."""
    for held in held_weights(network):
        if NAMES.get(held.dtype) == "fp32" and held.weight.dim() > 1 and held.name not in kept:
            yield held

"""The quantization methods. There is one module for each, with the same two functions.

quantize(option, work)             a new quantized network and its cost; the float network is not changed
skeleton(option, network, form)    the same structure with other numbers, built from a fresh float network
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from quantexp.config import ByLayer, Quant
from quantexp.quant.flows.working import UnquantizableError, explain_failure, working
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods.choice import advice, resolved
from quantexp.quant.methods.work import Form, Work
from quantexp.state.copies import take_apart
from quantexp.system.errors import QuantizationError
from quantexp.system.garbage import collect_garbage
from quantexp.system.implementation import resolve

__all__ = ["advising", "described", "quantize", "resolved", "skeleton"]


def quantize(option: Quant, work: Work) -> Quantized:
    """Return the quantized network, which ran on examples, and its cost.

    Raises:
        QuantizationError: If the method cannot quantize this network; the advice was tried.
        TrainingError: If a method that trains cannot train it.
    """
    option = resolved(option, work)
    rule = f"{described(option)} needs a network that it can quantize and run"
    with advising(option, work), explain_failure(rule), working(option.packs_for):
        quantized: Quantized = resolve(option.implementation).quantize(option, work)
        take_apart(quantized.model, work.baseline.model)  # what is left in float
        _run(quantized.model, work)
    collect_garbage()
    return quantized


def described(option: Quant) -> str:
    """Return the method and its flow, if it is known, as they are set: `quant=static quant.flow=fx`."""
    flow = f" quant.flow={option.flow}" if isinstance(option, ByLayer) and option.flow else ""
    return f"quant={option.name}{flow}"


@contextmanager
def advising(option: Quant, work: Work) -> Iterator[None]:
    """Add to the error of a network that cannot be quantized what quantizes it instead, which is tried."""
    try:
        yield
    except UnquantizableError as error:
        repair = f"; {advice(option, work, error.layer)}" if work.advise else ""
        raise QuantizationError(f"{error}{repair}") from error


def skeleton(option: Quant, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with the structure that `quantize` creates; its state is filled in later."""
    if isinstance(option, ByLayer) and option.flow is None:
        option = replace(option, flow=option.candidates(form.precision)[0])
    built: nn.Module = resolve(option.implementation).skeleton(option, network, form)
    return built


@torch.no_grad()
def _run(network: nn.Module, work: Work) -> None:
    """Run a network on one example and on two: the first calls fail if an operator has no kernel."""
    for batch in work.accepted((1, 2)):
        network(*batch)

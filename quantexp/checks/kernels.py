"""Kernels must compute what they should: each against its arithmetic, and the network against float."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.checks.arithmetic import compare
from quantexp.config import Engine
from quantexp.quant.engine import use_engine
from quantexp.quant.inspection.promise import Wrapper
from quantexp.quant.inspection.rounding import least_sqnr_db
from quantexp.results import Finding, LayerLoss
from quantexp.statistics.sqnr import compared
from quantexp.system.errors import CheckError
from quantexp.tasks.inputs import Batch

UNLOWERED_SQNR_DB = 20.0  # integer kernels round like the graph that they replace, but for the last bits of sums
LEAST_SQNR_DB = 10.0  # of the outputs, with the float network as the reference
BETTER_DB = 10.0  # another flow or engine that is so much better shows that this one is wrong
SHOWN = 3  # layers or operators that a message names


class WrongKernelsError(CheckError):
    """Kernels that compute something else than their arithmetic; `layers` names the layers, if they have names."""

    def __init__(self, message: str, layers: tuple[str, ...] = ()) -> None:
        self.layers = layers
        super().__init__("kernels", message)


def check_arithmetic(network: nn.Module, batch: Batch, engine: Engine | None, *, comparable: bool = True) -> None:
    """Compare what a quantized network computes with its arithmetic: each operator, or the graph before lowering.

    The graph is compared only if its outputs are `comparable`: not if they are random.

    Raises:
        WrongKernelsError: If an operator computes something else.
    """
    with use_engine(engine):
        inner = network.model if isinstance(network, Wrapper) else network
        if unlowered := getattr(inner, "unlowered", None):
            if comparable:
                _check_lowered(inner, unlowered(), batch)
            return
        found = compare(network, batch)
    if found.wrong:
        shown = "; ".join(f"{one.layer or 'the network'}: {one.operator}, {one.text}" for one in found.wrong[:SHOWN])
        more = f" and {len(found.wrong) - SHOWN} more" if len(found.wrong) > SHOWN else ""
        on = f" of the engine {engine.value}" if engine else ""
        names = tuple(dict.fromkeys(one.layer for one in found.wrong if one.layer))
        raise WrongKernelsError(
            f"kernels{on} must compute what their arithmetic says, these do not ({shown}{more})", names
        )


@torch.no_grad()
def _check_lowered(network: nn.Module, graph: nn.Module | None, batch: Batch) -> None:
    if graph is None:
        return
    expected = graph(*batch)
    _, ratio = compared(expected, network(*batch))
    least = least_sqnr_db(UNLOWERED_SQNR_DB, ratio, expected, lambda: graph(*batch))
    if not ratio >= least:
        raise WrongKernelsError(
            "integer kernels must compute what the graph with quantize and dequantize does (SQNR of at least "
            f"{least:.3g} dB), these have {ratio:.1f} dB"
        )


@torch.no_grad()
def check_converted(network: nn.Module, batch: Batch, expected: Tensor) -> None:
    """Compare a network that was trained with fake quant and converted with what it was before: `expected`.

    Raises:
        CheckError: If it computes something else.
    """
    _, ratio = compared(expected, network(*batch))
    if not ratio >= LEAST_SQNR_DB:
        raise CheckError(
            "kernels",
            "the converted network must compute what was trained with fake quant (SQNR of at least "
            f"{LEAST_SQNR_DB:g} dB), it has {ratio:.1f} dB",
        )


def output_sqnr_db(reference: Any, network: Any, batch: Batch) -> float:
    """Return the SQNR of the outputs on a batch, with the float network as the reference; infinite if equal."""
    with torch.no_grad():
        return compared(reference(*batch), network(*batch))[1]


def poor_output(ratio: float) -> Finding:
    """Return the finding that the outputs have little in common with those of the float network."""
    below = math.floor(10 * ratio) / 10  # 9.98 is not 10.0
    text = f"the outputs have an SQNR of {below:.1f} dB with respect to the float network, below {LEAST_SQNR_DB:g} dB"
    return Finding("kernels", text)


def poor_layers(layers: Iterable[LayerLoss]) -> list[tuple[str, float]]:
    """Return the layers whose outputs have little in common with float, with their SQNR in dB."""
    known = ((layer.name, layer.output_sqnr_db) for layer in layers)
    return [(name, value) for name, value in known if value is not None and value < LEAST_SQNR_DB]


def of_poor_layers(layers: Sequence[tuple[str, float]]) -> Finding:
    """Return the finding that the outputs of these layers, with their SQNR in dB, have little in common with float."""
    worst = sorted(layers, key=lambda layer: layer[1])[:SHOWN]
    named = "; ".join(f"{name}: {value:.1f} dB" for name, value in worst)
    count = f"the outputs of {len(layers)} layers have" if len(layers) > 1 else "the outputs of a layer have"
    return Finding("kernels", f"{count} an SQNR below {LEAST_SQNR_DB:g} dB with respect to float ({named})")

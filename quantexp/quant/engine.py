"""The engine that executes int8: a setting of the whole process, which is restored after use.

The engine determines how weights are packed. Weights are packed when a network is converted, filled from a state, or
copied, so all three must happen with the engine that the network was made for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from quantexp.config import Engine
from quantexp.system.environment import FOR_PRECISION, describe
from quantexp.system.errors import QuantizationError

log = logging.getLogger(__name__)

FULL_RANGE = {  # with any of these instruction sets an engine adds products in 32 bits; qnnpack always does
    Engine.x86: ("avx512_vnni", "amx_int8"),
    Engine.fbgemm: ("avx512_vnni", "amx_int8"),
    Engine.onednn: FOR_PRECISION["int8"],
}

OF_FBGEMM = (Engine.x86, Engine.fbgemm)  # the engines with kernels of fbgemm


def supported_engines() -> list[str]:
    """Return the engines that torch supports on this machine."""
    return [name for name in torch.backends.quantized.supported_engines if name != "none"]


def reduces_range(engine: Engine | None, requested: bool | None, model: nn.Module | None = None) -> bool:
    """Return whether activations use 7 of their 8 bits only.

    Without VNNI or AMX, two products are added in 16 bits, which overflows with the full range. If the instruction sets
    of the CPU are unknown, the range is reduced. The kernels of fbgemm for depthwise convolutions add in 16 bits on
    every CPU.

    Args:
        engine: The engine that executes the layers.
        requested: The setting of the user; None decides by the CPU and the layers.
        model: The network with these layers, if they matter.
    """
    sets = set(describe().instruction_sets)
    without = engine in FULL_RANGE and not sets & set(FULL_RANGE[engine])
    depthwise = engine in OF_FBGEMM and model is not None and any(map(_is_depthwise, model.modules()))
    if (without or depthwise) and requested is False:
        cause = "without VNNI" if without else "in depthwise convolutions"
        log.warning("reduce_range is off: %s, sums may saturate in %s and reduce accuracy", cause, engine)
    return without or depthwise if requested is None else requested


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Conv3d) and module.groups == module.in_channels > 1


@contextmanager
def use_engine(engine: Engine | None) -> Iterator[None]:
    """Use `engine` to pack int8 weights; None changes nothing.

    Raises:
        QuantizationError: If torch does not support the engine on this machine.
    """
    if engine is None:
        yield
        return
    if engine.value not in (supported := supported_engines()):
        raise QuantizationError(
            f"quant.engine must be supported on this machine, got {engine.value}; use one of {', '.join(supported)}"
        )
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine.value
    try:
        yield
    finally:
        torch.backends.quantized.engine = before

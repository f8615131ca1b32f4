"""The engine that executes int8: a setting of the whole process, put back after use.

It decides how weights are packed, and weights are packed anew whenever a model is converted, filled from a
state, or copied: all three must happen under the engine that the model was made for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from quantexp.config import Engine
from quantexp.system.environment import FOR_PRECISION, describe
from quantexp.system.errors import QuantizationError

log = logging.getLogger(__name__)

FULL_RANGE = {  # the instruction sets, any of which lets an engine add products in 32 bits; qnnpack always does
    Engine.x86: ("avx512_vnni", "amx_int8"),
    Engine.fbgemm: ("avx512_vnni", "amx_int8"),
    Engine.onednn: FOR_PRECISION["int8"],
}


def supported_engines() -> list[str]:
    """Return the engines that this machine's torch has."""
    return [name for name in torch.backends.quantized.supported_engines if name != "none"]


def reduces_range(engine: Engine | None, asked: bool | None) -> bool:
    """Return whether activations leave one of their 8 bits unused.

    Without VNNI or AMX two products are added in 16 bits, which full ranges overflow. Where the CPU does not
    tell its instruction sets the range is reduced.

    Args:
        engine: The engine that executes the layers.
        asked: What the user asks for; None leaves it to the CPU.
    """
    sets = set(describe().instruction_sets)
    needed = engine in FULL_RANGE and not sets & set(FULL_RANGE[engine])
    if needed and asked is False:
        log.warning("reduce_range is off: without VNNI sums may saturate in %s and cost accuracy", engine)
    return needed if asked is None else asked


@contextmanager
def use_engine(engine: Engine | None) -> Iterator[None]:
    """Pack int8 weights for `engine`; for None nothing is set.

    Raises:
        QuantizationError: If this machine's torch does not have the engine.
    """
    if engine is None:
        yield
        return
    if engine.value not in (supported := supported_engines()):
        raise QuantizationError(
            f"quant.engine must be one that this machine has, got {engine.value}; it has {', '.join(supported)}"
        )
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine.value
    try:
        yield
    finally:
        torch.backends.quantized.engine = before

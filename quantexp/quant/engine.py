"""The engine that executes int8: a setting of the whole process, put back after use.

It decides how weights are packed, and weights are packed anew whenever a model is converted, filled from a
state, or copied: all three must happen under the engine that the model was made for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from quantexp.config import Engine
from quantexp.errors import QuantizationError


def supported_engines() -> list[str]:
    """Return the engines that this machine's torch has."""
    return [name for name in torch.backends.quantized.supported_engines if name != "none"]


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

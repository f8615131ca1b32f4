"""What both flows over torch.ao share: the engine that executes int8, and the warnings that are known.

The engine is a setting of the whole process; it decides how weights are packed, so it is set while a
model is converted or filled and put back afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from quantexp.config import Engine
from quantexp.errors import QuantizationError

# torch announces that torch.ao moves to torchao, and its quantized tensors still use TypedStorage.
KNOWN_WARNINGS = (
    r"torch\.ao\.quantization is deprecated",
    r"TypedStorage is deprecated",
    r"_aminmax is deprecated",
    r"Please use quant_min and quant_max to specify the range for observers",
    r"reduce_range will be deprecated in a future version",
    r"torch\.quantize_per_",
)


@contextmanager
def torch_ao(engine: Engine) -> Iterator[None]:
    """Use `engine`, with torch.ao's known deprecation warnings filtered, one by one.

    Raises:
        QuantizationError: If this machine's torch does not have the engine.
    """
    supported = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if engine.value not in supported:
        raise QuantizationError(
            f"quant.engine must be one that this machine has, got {engine.value}; it has {', '.join(supported)}"
        )
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine.value
    try:
        with warnings.catch_warnings():
            for message in KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=f".*{message}")
            yield
    finally:
        torch.backends.quantized.engine = before

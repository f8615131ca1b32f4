"""The context of all flows: the engine, filters for known warnings, and errors for networks that fail."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from quantexp.config import Engine
from quantexp.quant.engine import use_engine
from quantexp.system.errors import QuantexpError, QuantizationError

# torch warns that torch.ao moves to torchao, and its quantized tensors still use TypedStorage.
KNOWN_WARNINGS = (
    r"torch\.ao\.quantization is deprecated",
    r"TypedStorage is deprecated",
    r"_aminmax is deprecated",
    r"Please use quant_min and quant_max to specify the range for observers",
    r"reduce_range will be deprecated in a future version",
    r"torch\.quantize_per_",
    r"The input of maxpool2d is not quantized",  # after a layer that stays in float
    r"Default qconfig of oneDNN backend",  # quantexp has its own warning where the range is chosen
)


@contextmanager
def working(engine: Engine | None) -> Iterator[None]:
    """Use `engine`, if any, and ignore the known warnings of the flows.

    Raises:
        QuantizationError: If torch does not support the engine on this machine.
    """
    with use_engine(engine), warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=f".*{message}")
        yield


@contextmanager
def explain_failure(rule: str, repair: str) -> Iterator[None]:
    """Convert an error of an API to one that states the `rule`, the reason and the `repair`.

    Raises:
        QuantizationError: For all errors except those of quantexp and MemoryError.
    """
    try:
        yield
    except (QuantexpError, MemoryError):
        raise
    except Exception as error:  # tracing, fusing and lowering can raise anything
        paragraph = str(error).strip().partition("\n\n")[0]  # torch may add the graph, or hints for its developers
        reason = " ".join(f"{type(error).__name__}: {paragraph}".split())[:300]
        raise QuantizationError(f"{rule}, but it failed ({reason}); {repair}") from error

"""What flows share while they work: the engine, the warnings that are known, what is said of a network that fails."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from quantexp.config import Engine
from quantexp.quant.engine import use_engine
from quantexp.system.errors import QuantexpError, QuantizationError

# torch announces that torch.ao moves to torchao, and its quantized tensors still use TypedStorage.
KNOWN_WARNINGS = (
    r"torch\.ao\.quantization is deprecated",
    r"TypedStorage is deprecated",
    r"_aminmax is deprecated",
    r"Please use quant_min and quant_max to specify the range for observers",
    r"reduce_range will be deprecated in a future version",
    r"torch\.quantize_per_",
    r"The input of maxpool2d is not quantized",  # behind a layer that was to stay in float
    r"Default qconfig of oneDNN backend",  # told in our words where the engine's range is chosen
)


@contextmanager
def working(engine: Engine | None) -> Iterator[None]:
    """Use `engine`, if any, with the flows' known deprecation warnings filtered, one by one.

    Raises:
        QuantizationError: If this machine's torch does not have the engine.
    """
    with use_engine(engine), warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=f".*{message}")
        yield


@contextmanager
def taking(rule: str, repair: str) -> Iterator[None]:
    """Turn whatever an API raises over a network into the `rule` that it breaks, with the reason and the `repair`.

    Raises:
        QuantizationError: If anything is raised that is not an error of quantexp, nor tells that memory has ended.
    """
    try:
        yield
    except (QuantexpError, MemoryError):
        raise
    except Exception as error:  # tracing, fusing and lowering each have errors of their own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise QuantizationError(f"{rule}, it does not ({reason}); {repair}") from error

"""torchao's quantizer for x86, imported without changing the compiler for this process.

The import registers `quant_lift_up` as the pass that the compiler runs first on every network, also on a float one. Who
compiles sets it instead.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch._inductor.config as inductor

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "QuantizationConfig",
    "X86InductorQuantizer",
    "get_default_x86_inductor_quantization_config",
    "quant_lift_up",
]


@contextmanager
def _passes_kept() -> Iterator[None]:
    before = inductor.pre_grad_custom_pass
    try:
        yield
    finally:
        inductor.pre_grad_custom_pass = before


with _passes_kept():
    from torchao.quantization.pt2e.inductor_passes.x86 import quant_lift_up
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        QuantizationConfig,
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

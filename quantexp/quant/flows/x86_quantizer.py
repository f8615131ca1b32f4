"""torchao's quantizer for x86, imported without changing the compiler for this process.

The import registers `quant_lift_up` as the pass that the compiler runs first on every network, also on a float one. Who
compiles sets it instead.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch._inductor.config as inductor
from torch import fx

from quantexp.config import Engine
from quantexp.quant.engine import reduces_range
from quantexp.quant.flows.annotations import without_integers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SEVEN_BITS = (-64, 63)  # of weights: the sum of two products with 8 bits then fits into 16
__all__ = ["configuration", "quant_lift_up", "quantizer"]


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


class FloatsOnly(X86InductorQuantizer):  # type: ignore[misc]
    """The quantizer without annotations of integers."""

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotate the graph."""
        return without_integers(super().annotate(model))


def configuration(
    *, lowered: bool, is_dynamic: bool = False, is_qat: bool = False, reduce_range: bool | None = None
) -> QuantizationConfig:
    """Return the settings of the quantizer.

    Args:
        lowered: Whether torch's own kernels take the graph. Else it is the weights that get 7 bits: ONNX has no
            activations of 7 bits, so that values beyond those of calibration would not be clamped.
        is_dynamic: Whether the ranges of inputs are found in each call.
        is_qat: Whether the network is trained.
        reduce_range: The setting of the user.
    """
    reduces = reduces_range(Engine.onednn, reduce_range)
    config = get_default_x86_inductor_quantization_config(
        is_qat=is_qat, is_dynamic=is_dynamic, reduce_range=reduces and lowered
    )
    if not reduces or lowered:
        return config
    low, high = SEVEN_BITS
    return dataclasses.replace(config, weight=dataclasses.replace(config.weight, quant_min=low, quant_max=high))


def quantizer(config: QuantizationConfig, kept: Iterable[str]) -> FloatsOnly:
    """Return a quantizer that leaves the layers `kept` in float."""
    made = FloatsOnly()
    made.set_global(config)
    for name in kept:
        made.set_module_name_qconfig(name, None)
    return made

"""ExecuTorch's quantizer for XNNPACK, imported without a change of how this process logs.

Its kernels multiply int8 activations with int8 weights that have a scale for each channel, and round the outputs of a
layer. They add in 32 bits, so that all 8 bits are used on every CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx
from torchao.quantization.pt2e.quantizer import get_module_name_filter

from quantexp.quant.flows.annotations import without_integers
from quantexp.system.extras import quietly

with quietly():
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )


class FloatsOnly(XNNPACKQuantizer):  # type: ignore[misc]
    """The quantizer without annotations of integers."""

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotate the graph."""
        return without_integers(super().annotate(model))


def configuration(
    *, lowered: bool, is_dynamic: bool = False, is_qat: bool = False, reduce_range: bool | None = None
) -> Any:
    """Return the settings of the quantizer, whose kernels need no reduced range of anything."""
    return get_symmetric_quantization_config(is_per_channel=True, is_qat=is_qat, is_dynamic=is_dynamic)


def quantizer(config: Any, kept: Iterable[str]) -> FloatsOnly:
    """Return a quantizer that leaves the layers `kept` in float."""
    made, filters = FloatsOnly(), [get_module_name_filter(name) for name in kept]
    made.set_global(config)
    made.set_filter_function(lambda node: not any(belongs(node) for belongs in filters))
    return made

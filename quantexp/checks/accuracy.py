"""What a loss of accuracy, or layers far from float, can be due to, where a setting is known to repair it."""

from __future__ import annotations

from collections.abc import Iterator

from quantexp.checks.kernels import poor_layers
from quantexp.config import Dynamic, FakeQuant, Granularity, Qat, Quant, Static
from quantexp.results import Comparison, Finding
from quantexp.results.comparison import LOSS

WEIGHTS = "weights"  # the name of the check
REPAIR = "quant.weights=per_channel"


def coarse_weights(option: Quant, precision: str, comparison: Comparison | None) -> Iterator[Finding]:
    """Yield a finding if all weights of a layer share one scale, and quality is lost significantly or layers are poor.

    Args:
        option: The method, with the flow that was used.
        precision: Of the quantized network; in fp16 there are no scales.
        comparison: With the float network; None if nothing was quantized.
    """
    if comparison is None or precision == "fp16":
        return
    change = comparison.quality
    if change and change.verdict == LOSS:
        what = f"the loss of {change.name} is significant"
    elif not option.learns and len(poor := poor_layers(comparison.layers)) > 1:
        what = f"the outputs of {len(poor)} layers are far from float"
    else:
        return
    granularity = option.granularity if isinstance(option, Dynamic) else getattr(option, "weights", None)
    if isinstance(option, Dynamic | Static | Qat | FakeQuant) and granularity is Granularity.per_tensor:
        yield Finding(
            WEIGHTS,
            f"{what}, and all weights of a layer share one scale; try {REPAIR}",
        )

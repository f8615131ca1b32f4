"""What a significant loss of accuracy can be due to, where a setting is known to repair it."""

from __future__ import annotations

from collections.abc import Iterator

from quantexp.config import Dynamic, FakeQuant, Granularity, Qat, Quant, Static
from quantexp.results import Comparison, Finding
from quantexp.results.comparison import LOSS

WEIGHTS = "weights"  # the name of the check
REPAIR = "quant.weights=per_channel"


def coarse_weights(option: Quant, precision: str, comparison: Comparison | None) -> Iterator[Finding]:
    """Yield a finding if quality is lost significantly while all weights of a layer share one scale.

    Args:
        option: The method, with the flow that was used.
        precision: Of the quantized network; in fp16 there are no scales.
        comparison: With the float network; None if nothing was quantized.
    """
    change = comparison.quality if comparison else None
    if change is None or change.verdict != LOSS or precision == "fp16":
        return
    granularity = option.granularity if isinstance(option, Dynamic) else getattr(option, "weights", None)
    if isinstance(option, Dynamic | Static | Qat | FakeQuant) and granularity is Granularity.per_tensor:
        yield Finding(
            WEIGHTS,
            f"the loss of {change.name} is significant, and all weights of a layer share one scale; try {REPAIR}",
        )

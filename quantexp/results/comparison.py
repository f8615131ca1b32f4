"""The quantized network against the float one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quantexp.results.evidence import LayerLoss
from quantexp.results.measured import Latency

NO_DIFFERENCE, LOSS, GAIN = "no significant difference", "significant loss", "significant gain"


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster one model is than another at one batch size: latency over latency.

    `low` and `high` bound the 95 % interval, None where the protocol has none; `per_placement` holds the
    ratios it was drawn from. `margin` is the smallest difference worth naming, as a share.
    """

    batch_size: int
    ratio: float
    low: float | None
    high: float | None
    margin: float
    per_placement: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" only if the whole interval lies beyond the margin; else what can be ruled out."""
        if self.low is None or self.high is None:
            return "no interval"
        if self.low > 1 + self.margin:
            return "faster"
        if self.high < 1 / (1 + self.margin):
            return "slower"
        reach = max(self.high, 1 / self.low) - 1
        return f"no difference of more than {math.ceil(1000 * max(reach, self.margin) - 1e-9) / 10:g} %"


@dataclass(frozen=True, slots=True)
class NotFaster:
    """A batch size at which int8 was not faster than float, and the reasons as far as they can be told."""

    batch_size: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QualityChange:
    """The quality of the quantized network against that of the float one, on the same examples.

    `drop` is float minus quantized. `flips_gained` counts examples that only the quantized network gets right,
    `flips_lost` those that only the float one does; `gained_examples` and `lost_examples` are their indices in the
    evaluated split: with them two quantized networks can be compared, each by its flips from the same float network.
    `p_value` is that of the exact McNemar test, `detectable_drop` the smallest true drop that it would find in 80 of
    100 such sets of examples.
    """

    name: str
    drop: float
    flips_gained: int
    flips_lost: int
    p_value: float
    detectable_drop: float
    gained_examples: tuple[int, ...] = ()
    lost_examples: tuple[int, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether the difference is significant at the 5 % level, and in which direction."""
        if self.p_value >= 0.05:
            return NO_DIFFERENCE
        return LOSS if self.flips_lost > self.flips_gained else GAIN


@dataclass(frozen=True, slots=True)
class Comparison:
    """The quantized network against the float one, on the same examples and inputs, in the same runtime.

    `quality` is None where examples have no labels. `agreement` is the share of examples on which both predict the same
    class. `output_sqnr_db` is the energy of the float outputs over that of their difference from the quantized ones,
    None where both are equal, or not finite. `layers` has what each layer loses, in the order of the network; none
    where no layer holds its weights in less than float.
    """

    quality: QualityChange | None
    agreement: float
    compression: float
    speedups: tuple[Speedup, ...]
    not_faster: tuple[NotFaster, ...]
    training_ratio: float | None  # quantized training time over float's, where the two compare
    output_sqnr_db: float | None = None
    layers: tuple[LayerLoss, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherFloat:
    """The float network in another runtime, timed beside the two that are compared.

    `prepare_seconds` and `max_difference` are as in `Measured`. `speedups` say how much faster it is than the float
    network in the runtime of the run, `quantized_speedups` how much faster the quantized network is than it; of a run
    that quantizes nothing, how much faster the float network is than it is in eager execution.
    """

    runtime: str
    prepare_seconds: float | None
    max_difference: float | None
    latency: tuple[Latency, ...]
    speedups: tuple[Speedup, ...]
    quantized_speedups: tuple[Speedup, ...] = ()

"""The comparison of the quantized network with the float one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quantexp.results.evidence import LayerLoss
from quantexp.results.measured import Latency

NO_DIFFERENCE, LOSS, GAIN = "no significant difference", "significant loss", "significant gain"


@dataclass(frozen=True, slots=True)
class Speedup:
    """The speedup of one network over another at one batch size: the ratio of their latencies.

    `low` and `high` bound the 95 % confidence interval, None where the protocol gives none; `per_placement` holds the
    ratio of each placement. `margin` is the smallest relevant difference, as a share.
    """

    batch_size: int
    ratio: float
    low: float | None
    high: float | None
    margin: float
    per_placement: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """The words "faster" or "slower" if the whole interval is beyond the margin, else what can be ruled out."""
        if self.low is None or self.high is None:
            return "no interval"
        if self.low > 1 + self.margin:
            return "faster"
        if self.high < 1 / (1 + self.margin):
            return "slower"
        largest = max(self.high, 1 / self.low) - 1
        return f"no difference of more than {math.ceil(1000 * max(largest, self.margin) - 1e-9) / 10:g} %"


@dataclass(frozen=True, slots=True)
class NotFaster:
    """A batch size at which the quantized network was not faster than the float one, with the known reasons."""

    batch_size: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QualityChange:
    """The change in quality from the float network to the quantized one, on the same examples.

    `drop` is float minus quantized. `flips_gained` counts examples that only the quantized network classifies
    correctly, `flips_lost` those that only the float one does; `gained_examples` and `lost_examples` are their indices
    in the evaluated split. With these, two quantized versions of one float network can be compared. `p_value` is from
    the exact McNemar test, `detectable_drop` is the minimum detectable drop (80 % power).
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
    """The quantized network compared with the float one, on the same examples and inputs, in the same runtime.

    `quality` is None where examples have no labels. `agreement` is the share of examples on which both predict the same
    class. `output_sqnr_db` is the SQNR of the quantized outputs, None where both are equal, or not finite. `layers` has
    the loss of each layer, in the order of the network; it is empty where all layers hold float32 weights.
    """

    quality: QualityChange | None
    agreement: float
    compression: float
    speedups: tuple[Speedup, ...]
    not_faster: tuple[NotFaster, ...]
    training_ratio: float | None  # training time, quantized over float; None where the two are not comparable
    output_sqnr_db: float | None = None
    layers: tuple[LayerLoss, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherFloat:
    """The float network in another runtime, timed together with the networks of the run.

    `prepare_seconds` and `max_difference` are as in `Measured`. `speedups` are those over the float network in the
    runtime of the run. `quantized_speedups` are those of the quantized network over this one; in a run that quantizes
    nothing, those of the float network over itself in eager execution.
    """

    runtime: str
    prepare_seconds: float | None
    max_difference: float | None
    latency: tuple[Latency, ...]
    speedups: tuple[Speedup, ...]
    quantized_speedups: tuple[Speedup, ...] = ()

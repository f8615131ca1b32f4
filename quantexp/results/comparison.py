"""The comparison of the quantized network with the float one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from quantexp.results.evidence import LayerLoss
from quantexp.results.measured import Latency, Measured

LESS, MORE = "less", "more"
FASTER, SLOWER, NO_SPEEDUP, UNDECIDED, NO_INTERVAL = "faster", "slower", "no difference", "undecided", "no interval"
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
        """What the interval decides, in words: of "undecided" it gives the ends of the interval."""
        word = self.word
        if word == NO_SPEEDUP:
            return f"{word} of more than {100 * self.margin:g} %"
        if word == UNDECIDED and self.low is not None and self.high is not None:
            return f"{word}: between {_ends(self.low, self.high)}"
        return word

    @property
    def word(self) -> str:
        """What the interval decides: "faster", "slower", "no difference", "undecided" or "no interval"."""
        if self.low is None or self.high is None:
            return NO_INTERVAL
        return decided(self.low, self.high, self.margin)


@dataclass(frozen=True, slots=True)
class EnergyRatio:
    """The energy of one network for one example over that of another, at one batch size.

    `low` and `high` bound the 95 % confidence interval, `per_placement` holds the ratio of each placement. `margin` is
    the smallest relevant difference, as a share.
    """

    batch_size: int
    ratio: float
    low: float
    high: float
    margin: float
    per_placement: tuple[float, ...] = ()

    @property
    def word(self) -> str:
        """What the interval decides about the other network: "less" energy, "more", "no difference" or "undecided"."""
        word = decided(self.low, self.high, self.margin)
        return {FASTER: LESS, SLOWER: MORE}.get(word, word)


def decided(low: float, high: float, margin: float) -> str:
    """Return what the interval of a speedup decides.

    It is "faster" or "slower" if the whole interval is beyond the margin, "no difference" if all of it is within, else
    "undecided".
    """
    if low > 1 + margin:
        return FASTER
    if high < 1 / (1 + margin):
        return SLOWER
    return NO_SPEEDUP if 1 / (1 + margin) <= low and high <= 1 + margin else UNDECIDED


def _ends(low: float, high: float) -> str:
    """Return the ends of an interval of speedups: `1.2 % slower and 3 % faster`; rounding makes it wider."""
    if high <= 1:
        return f"{_percent(low, math.ceil)} and {_percent(high, math.floor)} slower"
    if low >= 1:
        return f"{_percent(low, math.floor)} and {_percent(high, math.ceil)} faster"
    return f"{_percent(low, math.ceil)} slower and {_percent(high, math.ceil)} faster"


def _percent(speedup: float, rounded: Callable[[float], int]) -> str:
    tenths = round(1000 * (max(speedup, 1 / speedup) - 1), 6)  # 0.8 times as fast takes 25 % longer
    return f"{rounded(tenths) / 10:g} %"


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
    `energy_ratios` has the energy of the float network over that of the quantized one, where energy was measured.
    """

    quality: QualityChange | None
    agreement: float
    compression: float
    speedups: tuple[Speedup, ...]
    not_faster: tuple[NotFaster, ...]
    training_ratio: float | None  # training time, quantized over float; None where the two are not comparable
    output_sqnr_db: float | None = None
    layers: tuple[LayerLoss, ...] = ()
    energy_ratios: tuple[EnergyRatio, ...] = ()


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


@dataclass(frozen=True, slots=True)
class OtherQuantized:
    """The quantized network in another runtime, measured and checked there as in the runtime of the run.

    `speedups` are those over the float network in the same runtime, `eager_speedups` those over the float network in
    eager execution; all were timed together with the networks of the run.
    """

    runtime: str
    measured: Measured
    speedups: tuple[Speedup, ...]
    eager_speedups: tuple[Speedup, ...]

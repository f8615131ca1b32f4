"""The quantized network against the float one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quantexp.results.evidence import LayerLoss
from quantexp.results.measured import Latency


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
class Comparison:
    """The quantized model against the float model, on the same examples and inputs.

    `flips_gained` counts examples that only the quantized model gets right, `flips_lost` those
    that only the float model does. `accuracy_drop` is float minus quantized. `agreement` is the share
    of examples on which both predict the same class. `p_value` is that of the exact McNemar test, and
    `detectable_drop` the least true drop that it would have told from none in 80 of 100 such sets of examples.
    `output_sqnr_db` is the energy of the float logits over that of their difference from the quantized ones, None
    where both are equal, or not finite. `gained_examples` and `lost_examples` are the indices of the flips in the
    evaluated split: with them two quantized models can be compared, each by its flips from the same float model.
    `layers` has what each layer loses, in the order of the network; none where no layer holds its weights in less than
    float.
    """

    accuracy_drop: float
    agreement: float
    flips_gained: int
    flips_lost: int
    p_value: float
    detectable_drop: float
    compression: float
    speedups: tuple[Speedup, ...]
    speedups_over_compiled: tuple[Speedup, ...]  # none unless the compiled float model was measured
    not_faster: tuple[NotFaster, ...]
    training_ratio: float | None  # quantized training time over float's, where the two compare
    output_sqnr_db: float | None = None
    gained_examples: tuple[int, ...] = ()
    lost_examples: tuple[int, ...] = ()
    layers: tuple[LayerLoss, ...] = ()

    @property
    def accuracy_verdict(self) -> str:
        """What the test says at the 5 % level: a loss, a gain, or none that it can detect."""
        if self.p_value >= 0.05:
            return "no detectable loss"
        return "a loss" if self.flips_lost > self.flips_gained else "a gain"


def won_and_lost(one: Comparison, other: Comparison) -> tuple[int, int]:
    """Count the examples that only the other model gets right, and those that only the one does.

    Both are compared with the same float model, so they differ where the flips of one are not those of the other.
    """
    gained = (set(one.gained_examples), set(other.gained_examples))
    lost = (set(one.lost_examples), set(other.lost_examples))
    return len(gained[1] - gained[0]) + len(lost[0] - lost[1]), len(gained[0] - gained[1]) + len(lost[1] - lost[0])


@dataclass(frozen=True, slots=True)
class Compiled:
    """The float model under `torch.compile`, a harder one to beat than eager.

    `max_difference` is the greatest difference of its logits from those of the eager model; `speedups`
    say how much faster than that it is.
    """

    compile_seconds: float
    max_difference: float
    latency: tuple[Latency, ...]
    speedups: tuple[Speedup, ...]

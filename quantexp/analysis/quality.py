"""Changes of quality between two variants, and whether they are significant.

With one seed, the exact McNemar test on the same examples decides; with several, the confidence interval of the
differences per seed. Without labels there is no quality, only agreement and output SQNR with respect to float.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quantexp.analysis.seeds import Difference, Spread, difference, paired, spread
from quantexp.analysis.variants import Variant
from quantexp.results import Comparison, Quality, QualityChange
from quantexp.results.comparison import GAIN, LOSS, NO_DIFFERENCE
from quantexp.results.text import change_text, points_text
from quantexp.tasks.objectives.between import change_between


@dataclass(frozen=True, slots=True)
class Change:
    """The change of a quality from one variant to another: with one seed its test, with several the mean."""

    test: QualityChange | None
    seeds: Difference | None = None

    @property
    def gain(self) -> float:
        """Quality of the second variant minus that of the first."""
        return -self.test.drop if self.test else self.seeds.mean if self.seeds else 0.0

    @property
    def verdict(self) -> str:
        """Whether it is significant, in the words of QualityChange."""
        if self.test:
            return self.test.verdict
        if self.seeds is None or not self.seeds.significant:
            return NO_DIFFERENCE
        return GAIN if self.gain > 0 else LOSS

    def __str__(self) -> str:
        if self.test:
            return change_text(self.test)
        if self.seeds is None:
            return "not compared"
        ends = f"[{points_text(self.seeds.low)}, {points_text(self.seeds.high)}]"
        return f"{points_text(self.gain)} points {ends} over {self.seeds.n} seeds"


def change_from_float(variant: Variant) -> Change | None:
    """Return the change with respect to float over all seeds, None for the float network and without labels."""
    changes = [comparison.quality for comparison in variant.comparisons.values() if comparison.quality]
    if not changes:
        return None
    if len(changes) == 1:
        return Change(changes[0])
    return Change(None, difference([-change.drop for change in changes], variant.step))


def change_of(first: Variant, second: Variant) -> Change | None:
    """Return the change from one quantized variant to another, None without a shared seed or without labels."""
    if seeds := paired(second.qualities(), first.qualities(), second.step):
        return Change(None, seeds)
    before, after = first.comparisons, second.comparisons
    shared = [seed for seed in before if seed in after]
    if len(shared) != 1:
        return None
    (seed,) = shared
    old, new = before[seed].quality, after[seed].quality
    return Change(change_between(old, new, first.reports[seed].data.evaluated)) if old and new else None


def quality_percent(variants: Iterable[Variant]) -> Spread | None:
    """Return the quality in percent over all seeds of the variants, None without labels."""
    values: dict[int, float] = {}
    for variant in variants:
        values |= variant.qualities()
    return spread([100 * value for value in values.values()]) if values else None


def agreement_percent(variant: Variant) -> Spread | None:
    """Return the percentage of examples with the same prediction as float, None for the float network."""
    values = [100 * comparison.agreement for comparison in variant.comparisons.values()]
    return spread(values) if values else None


def output_sqnr_db(variant: Variant) -> Spread | None:
    """Return the output SQNR in dB, None if it is not finite, as for equal outputs."""
    known = [comparison.output_sqnr_db for comparison in variant.comparisons.values()]
    values = [value for value in known if value is not None]
    return spread(values) if values else None


def closeness_db(comparison: Comparison) -> float:
    """Return the output SQNR in dB: infinity for equal outputs, minus infinity for outputs that are not finite."""
    if comparison.output_sqnr_db is not None:
        return comparison.output_sqnr_db
    return math.inf if comparison.agreement == 1 else -math.inf


def class_changes(before: Quality, after: Quality) -> Mapping[int, float | None]:
    """Return the change of quality per class, None for a class without examples."""
    pairs = zip(before.per_class, after.per_class, strict=True)
    return {label: None if old is None or new is None else new - old for label, (old, new) in enumerate(pairs)}

"""Figures of a variant over its seeds: mean and standard deviation for tables, values with whiskers for pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantexp.analysis.quality import output_sqnr_db
from quantexp.analysis.ratios import over_float
from quantexp.analysis.seeds import Spread, difference, spread
from quantexp.analysis.variants import Variant
from quantexp.results import Latency


@dataclass(frozen=True, slots=True)
class Value:
    """A value and the ends of its whiskers."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Value:
        """Return a value without whiskers."""
        return cls(value, value, value)

    @classmethod
    def spread(cls, values: Sequence[float]) -> Value:
        """Return mean ± standard deviation; a single value has no whiskers."""
        found = spread(values)
        reach = found.std or 0.0
        return cls(found.mean, found.mean - reach, found.mean + reach)


def size_mb(variant: Variant) -> Spread:
    """Return the size of the saved state dict in MB."""
    return spread([report.result.size_mb for report in variant.reports.values()])


def latency_ms(variant: Variant, size: int) -> Spread | None:
    """Return mean and deviation: of the samples with one seed, of the means over several seeds."""
    return _of_seeds(variant.latencies(size))


def float_latency_ms(variant: Variant, size: int) -> Spread | None:
    """Return mean and deviation of the float network, which was timed in the same runs."""
    return _of_seeds(
        {
            entry.report.seed: latency
            for entry in variant.entries
            if entry.report
            for latency in entry.report.baseline.latency
            if latency.batch_size == size
        }
    )


def _of_seeds(latencies: Mapping[int, Latency]) -> Spread | None:
    measured = list(latencies.values())
    if not measured:
        return None
    if len(measured) == 1:
        return Spread(measured[0].mean_ms, measured[0].std_ms, 1)
    return spread([latency.mean_ms for latency in measured])


def energy_mj(variant: Variant, size: int) -> Spread | None:
    """Return the energy for one example in millijoules, with its deviation over several seeds."""
    energies = [1e3 * energy.joules for energy in variant.energies(size).values()]
    return spread(energies) if energies else None


def quality_value(variant: Variant) -> Value:
    """Return the quality in percent with its interval, or mean ± standard deviation over seeds.

    Without labels, it is the agreement with the float network in percent, which is 100 for the float network.
    """
    if not variant.labelled:
        agreements = [100 * comparison.agreement for comparison in variant.comparisons.values()]
        return Value.spread(agreements or [100.0])
    known = [report.result.quality for report in variant.reports.values() if report.result.quality]
    if len(known) == 1:
        return Value(100 * known[0].value, 100 * known[0].low, 100 * known[0].high)
    return Value.spread([100 * quality.value for quality in known])


def quality_interval(variant: Variant) -> Value:
    """Return the quality in percent with its confidence interval (Student's t over several seeds)."""
    if found := difference([100 * value for value in variant.qualities().values()]):
        return Value(found.mean, found.low, found.high)
    return quality_value(variant)


def sqnr_value(variant: Variant) -> Value | None:
    """Return the output SQNR in dB, None for the float network or if it is not finite."""
    found = output_sqnr_db(variant)
    return Value.exact(found.mean) if found else None


def latency_value(variant: Variant, size: int) -> Value:
    """Return the median latency in ms with the middle 80 % of its samples, or mean ± deviation over seeds."""
    latencies = list(variant.latencies(size).values())
    if len(latencies) == 1:
        return Value(latencies[0].median_ms, latencies[0].p10_ms, latencies[0].p90_ms)
    return Value.spread([latency.median_ms for latency in latencies])


def size_value(variant: Variant) -> Value:
    """Return the size of the saved state dict in MB."""
    return Value.spread([report.result.size_mb for report in variant.reports.values()])


def speedup_value(variant: Variant, size: int) -> Value | None:
    """Return the speedup over float with its interval: 1 for the float network, None if it was not measured."""
    if variant.is_float:
        return Value.exact(1)
    ratio = over_float(variant, size)
    if ratio is None:
        return None
    reach = ratio.reach or 0.0
    return Value(math.exp(ratio.centre), math.exp(ratio.centre - reach), math.exp(ratio.centre + reach))

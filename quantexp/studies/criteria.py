"""The criteria for a quantized network: accuracy, or agreement and output SQNR with respect to float."""

from __future__ import annotations

import math

from quantexp.analysis.quality import closeness_db
from quantexp.config import Criterion
from quantexp.results import Comparison, Report
from quantexp.results.text import points_text

AXES = {
    Criterion.accuracy: "accuracy change (points)",
    Criterion.agreement: "agreement with float (%)",
    Criterion.output_sqnr_db: "output SQNR (dB), higher is better",
}
NAMES = {Criterion.accuracy: "accuracy", Criterion.agreement: "agreement", Criterion.output_sqnr_db: "output SQNR"}
FILES = {Criterion.accuracy: "accuracy", Criterion.agreement: "agreement", Criterion.output_sqnr_db: "sqnr"}


def compared(report: Report) -> Comparison:
    """Return the comparison of a run with float, which every variant of a study has."""
    assert report.comparison is not None
    return report.comparison


def degradation(criterion: Criterion, comparison: Comparison | None) -> float:
    """Return the loss by a criterion: net number of examples lost, share without agreement, or negative dB.

    None stands for the float network.
    """
    if criterion is Criterion.output_sqnr_db:
        return -closeness_db(comparison) if comparison else -math.inf
    if comparison is None:
        return 0
    if criterion is Criterion.agreement:
        return 1 - comparison.agreement
    assert comparison.quality is not None  # checked by the config
    return comparison.quality.flips_lost - comparison.quality.flips_gained


def value(criterion: Criterion, comparison: Comparison | None) -> float:
    """Return points of accuracy, agreement in percent, or dB (infinity for equal outputs)."""
    if criterion is Criterion.accuracy:
        return -100 * comparison.quality.drop if comparison and comparison.quality else 0.0
    cost = degradation(criterion, comparison)
    return 100 * (1 - cost) if criterion is Criterion.agreement else -cost


def value_text(criterion: Criterion, comparison: Comparison | None) -> str:
    """Return the value with its unit: `-0.30 points`, `agreement 99.20 %`, `SQNR 31.2 dB`."""
    found = value(criterion, comparison)
    if criterion is Criterion.accuracy:
        return f"{points_text(found / 100)} points"
    if criterion is Criterion.agreement:
        return f"agreement {found:.2f} %"
    return f"SQNR {found:.1f} dB" if math.isfinite(found) else f"SQNR {'infinite' if found > 0 else 'unknown'}"

"""The energy of a network and the ratio of two, with confidence intervals over placements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quantexp.results import Energy, EnergyRatio, Latency
from quantexp.statistics.timing import half_width


def energy(joules: Sequence[float]) -> Energy:
    """Summarise the joules for one example in each placement, at least two.

    The estimate is the geometric mean over the placements; the interval is Student's t interval of the logarithms.
    """
    return Energy(*_interval(np.log(joules)), tuple(joules))


def energy_ratios(reference: Sequence[Latency], other: Sequence[Latency], margin: float) -> tuple[EnergyRatio, ...]:
    """Return the energy of the reference over that of the other network, at each batch size with both.

    Each placement gives one ratio, as both networks were measured in it.
    """
    return tuple(
        _ratio(first.batch_size, first.energy, second.energy, margin)
        for first, second in zip(reference, other, strict=False)
        if first.energy and second.energy
    )


def _ratio(batch_size: int, reference: Energy, other: Energy, margin: float) -> EnergyRatio:
    logarithms = np.log(reference.joules_by_placement) - np.log(other.joules_by_placement)
    return EnergyRatio(batch_size, *_interval(logarithms), margin, tuple(np.exp(logarithms).tolist()))


def _interval(logarithms: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return mean and interval, transformed back with exp."""
    centre, width = float(logarithms.mean()), half_width(logarithms)
    return math.exp(centre), math.exp(centre - width), math.exp(centre + width)

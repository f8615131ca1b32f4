"""Which runs of a search are best: the one with the best value, or with several objectives those no other run beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantexp.config.objectives import Objective, find_objective
from quantexp.results.metrics import metrics
from quantexp.results.sweep import Entry, SweepResult


@dataclass(frozen=True)
class Best:
    """A run that no other run beats, with the value of each objective."""

    entry: Entry
    values: tuple[float, ...]


def objectives(sweep: SweepResult) -> list[Objective]:
    """Return what the sweep improved."""
    return [found for name in sweep.objectives if (found := find_objective(name))]


def best(sweep: SweepResult) -> list[Best]:
    """Return the best runs of a search; of equal ones the first. None of a sweep that searched nothing."""
    wanted = objectives(sweep)
    tried: dict[tuple[float, ...], Best] = {}
    for entry in sweep.entries if wanted else ():
        if entry.report is not None:
            named = metrics(entry.report)
            values = [value for objective in wanted if (value := objective.value(named)) is not None]
            if len(values) == len(wanted):
                tried.setdefault(tuple(values), Best(entry, tuple(values)))
    signs = [1 if objective.maximized else -1 for objective in wanted]
    return [one for one in tried.values() if not any(_beats(other, one, signs) for other in tried.values())]


def _beats(one: Best, other: Best, signs: Sequence[int]) -> bool:
    """Return whether a run is at least as good in everything, and differs."""
    pairs = zip(one.values, other.values, signs, strict=True)
    return one.values != other.values and all(sign * first >= sign * second for first, second, sign in pairs)

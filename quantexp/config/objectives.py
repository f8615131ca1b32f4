"""What a search improves: the name that is typed, the metric behind it, and its direction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

PER_BATCH = {"speedup": ("speedup_b{}", True), "latency": ("latency_b{}_ms", False)}
PER_RUN = {
    "accuracy": ("accuracy", True),
    "agreement": ("agreement", True),
    "sqnr": ("output_sqnr_db", True),
    "size": ("size_mb", False),
}


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric that a search improves. `metric` has {} in place of the batch size if that is not named."""

    name: str
    metric: str
    maximized: bool

    @property
    def direction(self) -> str:
        """Optuna's word for the direction."""
        return "maximize" if self.maximized else "minimize"

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """Return its value among the metrics of a run, at the smallest batch size if none is named."""
        if "{}" not in self.metric:
            return metrics.get(self.metric)
        pattern = re.escape(self.metric).replace(re.escape("{}"), r"(\d+)")
        found = {int(match[1]): metrics[name] for name in metrics if (match := re.fullmatch(pattern, name))}
        return found[min(found)] if found else None


def find_objective(name: str) -> Objective | None:
    """Return the objective with this name, such as accuracy, speedup or speedup_b64; None if there is none."""
    if name in PER_RUN:
        return Objective(name, *PER_RUN[name])
    kind, _, size = name.partition("_b")
    if kind not in PER_BATCH or (name != kind and not size.isdigit()):
        return None
    metric, maximized = PER_BATCH[kind]
    return Objective(name, metric.format(size) if size else metric, maximized)


def names() -> str:
    """Return the names that can be typed."""
    return ", ".join([*PER_RUN, *PER_BATCH, "speedup_b64"])

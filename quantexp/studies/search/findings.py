"""The findings of the study `search`: the candidates, the best within the bound, the Pareto fronts.

Everything is decided on the validation split, or without labels on the evaluated examples. A loss of accuracy is a net
number of examples, so that no rounding decides whether it meets the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from quantexp.analysis.pareto import pareto_front
from quantexp.config import Criterion
from quantexp.results import Comparison, Report
from quantexp.studies.criteria import compared, degradation

FLOAT = "float"  # the state of a part that is not quantized


@dataclass(frozen=True)
class Choice:
    """Which layers are quantized, and how: `layers` by `method`, those in `dynamic` with ranges found at each call."""

    name: str
    method: str
    layers: tuple[str, ...]
    dynamic: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A network that may be the answer; `report` is None for the float network."""

    choice: Choice
    examples: int
    size_bytes: int
    speedups: Mapping[int, float]
    report: Report | None = field(default=None, compare=False)

    @classmethod
    def measured(cls, choice: Choice, report: Report) -> Candidate:
        """Return the candidate of a run."""
        speedups = {speedup.batch_size: speedup.ratio for speedup in compared(report).speedups}
        return cls(choice, report.data.evaluated, report.result.size.state_bytes, speedups, report)

    @classmethod
    def unquantized(cls, report: Report) -> Candidate:
        """Return the float network of a run."""
        speedups = {latency.batch_size: 1.0 for latency in report.baseline.latency}
        size = report.baseline.size.state_bytes
        return cls(Choice("none", FLOAT, ()), report.data.evaluated, size, speedups)

    @property
    def comparison(self) -> Comparison | None:
        """The comparison with the float network, None for the float network."""
        return compared(self.report) if self.report else None

    @property
    def size_mb(self) -> float:
        """Size of the saved state dict in MB (1e6 bytes)."""
        return self.size_bytes / 1e6


@dataclass(frozen=True)
class Goal:
    """The goal of a search: least latency at `batch_size`, or least size, within a bound.

    `limit` is the greatest drop in accuracy, the least agreement, or the least output SQNR in dB, depending on
    `criterion`. Latencies that differ by less than the share `margin` count as equal.
    """

    criterion: Criterion
    limit: float
    objective: str
    batch_size: int
    margin: float

    def degradation(self, candidate: Candidate) -> float:
        """Return the loss of a candidate by the criterion."""
        return degradation(self.criterion, candidate.comparison)

    def met_by(self, candidate: Candidate) -> bool:
        """Return whether a candidate meets the bound."""
        lost = self.degradation(candidate)
        if self.criterion is Criterion.accuracy:
            return lost <= self.limit * candidate.examples + 1e-9  # 0.003 of 1000 examples are 3, not 2.99...
        return lost <= (1 - self.limit if self.criterion is Criterion.agreement else -self.limit) + 1e-9

    def cost(self, candidate: Candidate) -> float:
        """Return the cost to minimize: latency relative to float, or bytes."""
        return candidate.size_bytes if self.objective == "size" else 1 / candidate.speedups[self.batch_size]

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """Return the best candidate within the bound, or the nearest to it if there is none.

        Among those within the bound whose cost is near the minimum, the one with the least loss is best. So the result
        does not depend on the order of the candidates.
        """
        within = [candidate for candidate in candidates if self.met_by(candidate)]
        if not within:
            return min(candidates, key=lambda candidate: (self.degradation(candidate), self.cost(candidate)))
        margin = 0 if self.objective == "size" else self.margin
        enough = min(map(self.cost, within)) * (1 + margin)
        near = [candidate for candidate in within if self.cost(candidate) <= enough]
        return min(
            near, key=lambda candidate: (self.degradation(candidate), candidate.size_bytes, self.cost(candidate))
        )


@dataclass(frozen=True)
class SearchReport:
    """All candidates in the order of the search, the float network first.

    `ended` is "local" if no change of one part is better, "budget" if the budget is used up, and None during the
    search. `tested` is the run of the answer on the test split, `command` runs it alone. `failed` has the error of each
    variant that could not be quantized, `checkpoint` the weights that were not trained here.
    """

    goal: Goal
    unquantized: Candidate
    tried: tuple[Candidate, ...]
    failed: Mapping[str, str]
    ended: str | None = None
    tested: Report | None = None
    command: str | None = None
    checkpoint: str | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All networks that may be the answer."""
        return (self.unquantized, *self.tried)

    @property
    def reports(self) -> list[Report]:
        """The reports of all variants."""
        return [candidate.report for candidate in self.tried if candidate.report]

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels."""
        return self.reports[0].baseline.quality is not None

    @cached_property
    def answer(self) -> Candidate:
        """The best candidate, or the nearest to the bound."""
        return self.goal.best(self.candidates)

    @cached_property
    def nearest(self) -> Candidate:
        """The quantized network with the least loss."""
        return min(self.tried, key=lambda candidate: (self.goal.degradation(candidate), self.goal.cost(candidate)))

    @cached_property
    def ranked(self) -> tuple[Candidate, ...]:
        """The answer, then the candidates within the bound by cost, then the others by loss."""

        def place(candidate: Candidate) -> tuple[bool, bool, float, float]:
            within, cost, lost = (
                self.goal.met_by(candidate),
                self.goal.cost(candidate),
                self.goal.degradation(candidate),
            )
            return candidate is not self.answer, not within, *((cost, lost) if within else (lost, cost))

        return tuple(sorted(self.candidates, key=place))

    @property
    def best_so_far(self) -> list[Candidate]:
        """The best candidate after each step of the search."""
        return [self.goal.best(self.candidates[:count]) for count in range(1, len(self.candidates) + 1)]

    def front(self, costs: Sequence[float]) -> list[Candidate]:
        """Return the Pareto front of loss and a cost per candidate, the cheapest first."""
        gains = (-self.goal.degradation(candidate) for candidate in self.candidates)
        places = list(zip(costs, gains, strict=True))
        return [self.candidates[at] for at in pareto_front(places)]

    @cached_property
    def fronts(self) -> Mapping[str, Sequence[Candidate]]:
        """The Pareto fronts of the criterion vs latency at the batch size of the goal, and vs size."""
        size = self.goal.batch_size
        return {
            "latency": self.front([1 / candidate.speedups[size] for candidate in self.candidates]),
            "size": self.front([candidate.size_bytes for candidate in self.candidates]),
        }

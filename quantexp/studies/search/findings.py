"""What the study `search` found out: what it measured, the best within the bound, the Pareto fronts.

Everything here is decided on the validation split; without labels on the examples that are evaluated. A loss is counted
in examples, net of those that are gained: so a bound is met or missed without rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from quantexp.analysis.pareto import pareto_front
from quantexp.config import Criterion
from quantexp.results import Comparison, Report
from quantexp.studies.criteria import compared, harm

FLOAT = "float"  # what a layer stays that is not quantized, and the model of which all do


@dataclass(frozen=True)
class Choice:
    """Which layers are quantized and how: `layers` by `method`, those in `dynamic` with ranges found at each call.

    `name` says so in words.
    """

    name: str
    method: str
    layers: tuple[str, ...]
    dynamic: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A network that may be the answer, against the float network on the same examples; `report` is None for that."""

    choice: Choice
    examples: int
    size_bytes: int
    speedups: Mapping[int, float]
    report: Report | None = field(default=None, compare=False)

    @classmethod
    def measured(cls, choice: Choice, report: Report) -> Candidate:
        """Return the candidate that a run measured."""
        speedups = {speedup.batch_size: speedup.ratio for speedup in compared(report).speedups}
        return cls(choice, report.data.evaluated, report.result.size.state_bytes, speedups, report)

    @classmethod
    def unquantized(cls, report: Report) -> Candidate:
        """Return the float network that a run compared its own with."""
        speedups = {latency.batch_size: 1.0 for latency in report.baseline.latency}
        size = report.baseline.size.state_bytes
        return cls(Choice("none", FLOAT, ()), report.data.evaluated, size, speedups)

    @property
    def comparison(self) -> Comparison | None:
        """How it does against the float network, None of that itself."""
        return compared(self.report) if self.report else None

    @property
    def size_mb(self) -> float:
        """Size of the saved state dict in MB (1e6 bytes)."""
        return self.size_bytes / 1e6


@dataclass(frozen=True)
class Goal:
    """What is searched for: the least latency at `batch_size`, or the least size, within a bound.

    `limit` is the accuracy that may be lost, the least agreement, or the least output SQNR in dB, as `criterion` says.
    Latencies that differ by less than `margin`, as a share, count as equal.
    """

    criterion: Criterion
    limit: float
    objective: str
    batch_size: int
    margin: float

    def harm(self, candidate: Candidate) -> float:
        """Return what a network loses against the float network."""
        return harm(self.criterion, candidate.comparison)

    def met_by(self, candidate: Candidate) -> bool:
        """Tell whether a network stays within the bound."""
        lost = self.harm(candidate)
        if self.criterion is Criterion.accuracy:
            return lost <= self.limit * candidate.examples + 1e-9  # 0.003 of 1000 examples are 3, not 2.99...
        return lost <= (1 - self.limit if self.criterion is Criterion.agreement else -self.limit) + 1e-9

    def cost(self, candidate: Candidate) -> float:
        """Return what is to be small: latency as a share of float's, or bytes."""
        return candidate.size_bytes if self.objective == "size" else 1 / candidate.speedups[self.batch_size]

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """Return the best within the bound; where none is, the nearest to it.

        Of those within the bound that cost as good as least, it is the one that loses least. What is best depends on
        all of them and not on their order, as a chain of small differences would.
        """
        within = [candidate for candidate in candidates if self.met_by(candidate)]
        if not within:
            return min(candidates, key=lambda candidate: (self.harm(candidate), self.cost(candidate)))
        margin = 0 if self.objective == "size" else self.margin
        enough = min(map(self.cost, within)) * (1 + margin)
        near = [candidate for candidate in within if self.cost(candidate) <= enough]
        return min(near, key=lambda candidate: (self.harm(candidate), candidate.size_bytes, self.cost(candidate)))


@dataclass(frozen=True)
class SearchReport:
    """All that was tried, in order, the float model before it.

    `ended` is "local" where no variant that differs in one part is better, "budget" where no more variants were to be
    measured, and None while the search goes on. `tested` is the run of the answer on the test split, `command` makes
    that as a single run. `failed` has the error of each variant that could not be quantized, `checkpoint` the weights
    that were not trained here.
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
        """The reports of all that was tried."""
        return [candidate.report for candidate in self.tried if candidate.report]

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels, so that there is an accuracy and a test split."""
        return self.reports[0].baseline.quality is not None

    @cached_property
    def answer(self) -> Candidate:
        """The best of all, or the nearest to the bound."""
        return self.goal.best(self.candidates)

    @cached_property
    def nearest(self) -> Candidate:
        """The quantized network that loses least."""
        return min(self.tried, key=lambda candidate: (self.goal.harm(candidate), self.goal.cost(candidate)))

    @cached_property
    def ranked(self) -> tuple[Candidate, ...]:
        """The answer, then what is within the bound by what it costs, then the others by what they lose."""

        def place(candidate: Candidate) -> tuple[bool, bool, float, float]:
            within, cost, lost = self.goal.met_by(candidate), self.goal.cost(candidate), self.goal.harm(candidate)
            return candidate is not self.answer, not within, *((cost, lost) if within else (lost, cost))

        return tuple(sorted(self.candidates, key=place))

    @property
    def best_so_far(self) -> list[Candidate]:
        """What was best after each of the candidates, in the order in which they were tried."""
        return [self.goal.best(self.candidates[:count]) for count in range(1, len(self.candidates) + 1)]

    def front(self, costs: Sequence[float]) -> list[Candidate]:
        """Return what no other beats in what it loses and in a cost, which is given for each; the cheapest first."""
        places = [(cost, -self.goal.harm(one)) for cost, one in zip(costs, self.candidates, strict=True)]
        return [self.candidates[at] for at in pareto_front(places)]

    @cached_property
    def fronts(self) -> Mapping[str, Sequence[Candidate]]:
        """The Pareto fronts of the criterion against latency at the batch size of the goal, and against size."""
        size = self.goal.batch_size
        return {
            "latency": self.front([1 / candidate.speedups[size] for candidate in self.candidates]),
            "size": self.front([candidate.size_bytes for candidate in self.candidates]),
        }

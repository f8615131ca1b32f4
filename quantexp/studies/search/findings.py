"""What the study `search` found out: what it measured, the best within the bound, the Pareto fronts.

Everything here is decided on the validation split. A loss is counted in examples, net of those that are gained: so a
bound is met or missed without rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from quantexp.analysis.pareto import pareto_front
from quantexp.results import Report

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
    """A model that may be the answer, against the float model on the same examples.

    `lost` counts the examples that it loses, net of those that it gains. `report` is None for the float model itself.
    """

    choice: Choice
    lost: int
    examples: int
    size_bytes: int
    speedups: Mapping[int, float]
    report: Report | None = field(default=None, compare=False)

    @classmethod
    def measured(cls, choice: Choice, report: Report) -> Candidate:
        """Return the candidate that a run measured."""
        comparison = report.comparison
        assert comparison is not None  # something is quantized
        return cls(
            choice,
            comparison.flips_lost - comparison.flips_gained,
            report.data.evaluated,
            report.result.size.state_bytes,
            {one.batch_size: one.ratio for one in comparison.speedups},
            report,
        )

    @classmethod
    def unquantized(cls, report: Report) -> Candidate:
        """Return the float model that a run compared its own with."""
        ones = {one.batch_size: 1.0 for one in report.baseline.latency}
        size = report.baseline.size.state_bytes
        return cls(Choice("none", FLOAT, ()), 0, report.data.evaluated, size, ones)

    @property
    def accuracy_drop(self) -> float:
        """Accuracy of the float model less its own."""
        return self.lost / self.examples

    @property
    def size_mb(self) -> float:
        """Size of the saved state dict in MB (1e6 bytes)."""
        return self.size_bytes / 1e6


@dataclass(frozen=True)
class Goal:
    """What is searched for: the least latency at `batch_size`, or the least size, within a bound on the accuracy drop.

    Latencies that differ by less than `margin`, as a share, count as equal.
    """

    max_accuracy_drop: float
    objective: str
    batch_size: int
    margin: float

    def met_by(self, one: Candidate) -> bool:
        """Tell whether a model stays within the bound."""
        return one.lost <= self.max_accuracy_drop * one.examples + 1e-9  # 0.003 of 1000 examples are 3, not 2.99...

    def cost(self, one: Candidate) -> float:
        """Return what is to be small: latency as a share of float's, or bytes."""
        return one.size_bytes if self.objective == "size" else 1 / one.speedups[self.batch_size]

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """Return the best within the bound; where none is, the nearest to it.

        Of those within the bound that cost as good as least, it is the one that loses least. What is best depends on
        all of them and not on their order, as a chain of small differences would.
        """
        within = [one for one in candidates if self.met_by(one)]
        if not within:
            return min(candidates, key=lambda one: (one.lost, self.cost(one)))
        margin = 0 if self.objective == "size" else self.margin
        enough = min(map(self.cost, within)) * (1 + margin)
        near = [one for one in within if self.cost(one) <= enough]
        return min(near, key=lambda one: (one.lost, one.size_bytes, self.cost(one)))


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
        """All models that may be the answer."""
        return (self.unquantized, *self.tried)

    @cached_property
    def answer(self) -> Candidate:
        """The best of all, or the nearest to the bound."""
        return self.goal.best(self.candidates)

    @cached_property
    def nearest(self) -> Candidate:
        """The quantized model that loses least."""
        return min(self.tried, key=lambda one: (one.lost, self.goal.cost(one)))

    @cached_property
    def ranked(self) -> tuple[Candidate, ...]:
        """The answer, then what is within the bound by what it costs, then the others by what they lose."""
        goal = self.goal

        def place(one: Candidate) -> tuple[bool, bool, float, float]:
            within = goal.met_by(one)
            keys = (goal.cost(one), one.lost) if within else (one.lost, goal.cost(one))
            return one is not self.answer, not within, *keys

        return tuple(sorted(self.candidates, key=place))

    @property
    def best_so_far(self) -> list[Candidate]:
        """What was best after each of the candidates, in the order in which they were tried."""
        return [self.goal.best(self.candidates[:count]) for count in range(1, len(self.candidates) + 1)]

    def front(self, costs: Sequence[float]) -> list[Candidate]:
        """Return what no other beats in accuracy and a cost, which is given for each candidate; the cheapest first."""
        places = [(cost, -one.lost) for cost, one in zip(costs, self.candidates, strict=True)]
        return [self.candidates[at] for at in pareto_front(places)]

    @cached_property
    def fronts(self) -> Mapping[str, Sequence[Candidate]]:
        """The Pareto fronts of accuracy against latency at the batch size of the goal, and against size."""
        size = self.goal.batch_size
        return {
            "latency": self.front([1 / one.speedups[size] for one in self.candidates]),
            "size": self.front([one.size_bytes for one in self.candidates]),
        }

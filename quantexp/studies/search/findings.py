"""The findings of the study `search`: the candidates, the best within the bound, the Pareto fronts.

Everything is decided on the validation split, or without labels on the evaluated examples. A loss of accuracy is a net
number of examples, so that no rounding decides whether it meets the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from quantexp.analysis.pareto import pareto_front
from quantexp.config import Criterion, Eager
from quantexp.results import Comparison, OtherFloat, Report, Speedup
from quantexp.studies.criteria import compared, degradation

FLOAT = "float"  # the state of a part that is not quantized


@dataclass(frozen=True)
class Choice:
    """Which layers are quantized, and how: `layers` by `method`, those in `dynamic` with ranges found at each call.

    `runtime` is the name of the one that executes the network.
    """

    name: str
    method: str
    layers: tuple[str, ...]
    dynamic: tuple[str, ...] = ()
    runtime: str = Eager.name


@dataclass(frozen=True)
class Candidate:
    """A network that may be the answer; `report` is None for a float network.

    `speedups` are those over the float network in the same runtime or, in a search over several runtimes, over that in
    eager execution, which each network is timed in turns with.
    """

    choice: Choice
    examples: int
    size_bytes: int
    speedups: Mapping[int, Speedup]
    report: Report | None = field(default=None, compare=False)

    @classmethod
    def measured(cls, choice: Choice, report: Report, *, over_eager: bool = False) -> Candidate:
        """Return the candidate of a run."""
        found = _over_eager(report) if over_eager else compared(report).speedups
        speedups = {speedup.batch_size: speedup for speedup in found}
        return cls(choice, report.data.evaluated, report.result.size.state_bytes, speedups, report)

    @classmethod
    def unquantized(cls, report: Report, *, over_eager: bool = False) -> Candidate:
        """Return the float network of a run."""
        found = [Speedup(latency.batch_size, 1.0, None, None, 0.0) for latency in report.baseline.latency]
        if over_eager and report.runtime != Eager.name:
            found = [_inverse(speedup) for speedup in _eager(report).speedups]
        speedups = {speedup.batch_size: speedup for speedup in found}
        choice = Choice("none", FLOAT, (), runtime=report.runtime)
        return cls(choice, report.data.evaluated, report.baseline.size.state_bytes, speedups)

    @property
    def comparison(self) -> Comparison | None:
        """The comparison with the float network in the same runtime, None for that itself."""
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
        return candidate.size_bytes if self.objective == "size" else 1 / candidate.speedups[self.batch_size].ratio

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
    """All candidates in the order of the search, the float networks first, one in each runtime.

    `runtimes` are those that were asked for. `left_out` has the reason for each method that was not searched in one of
    them. `ended` is "local" if no change of one part is better, "budget" if the budget is used up, and None during the
    search. `tested` is the run of the answer on the test split, `command` runs it alone. `failed` has the error of each
    variant that could not be quantized, `checkpoint` the weights that were not trained here.
    """

    goal: Goal
    floats: tuple[Candidate, ...]
    tried: tuple[Candidate, ...]
    failed: Mapping[str, str]
    ended: str | None = None
    tested: Report | None = None
    command: str | None = None
    checkpoint: str | None = None
    runtimes: tuple[str, ...] = (Eager.name,)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All networks that may be the answer."""
        return (*self.floats, *self.tried)

    @property
    def several(self) -> bool:
        """Whether there are several runtimes to choose from."""
        return len(self.runtimes) > 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that were measured."""
        return tuple(self.floats[0].speedups)

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

    def of_test(self, tested: Report) -> Candidate:
        """Return the answer with the figures of its run on the test split."""
        return Candidate.measured(self.answer.choice, tested, over_eager=self.several)

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
            "latency": self.front([1 / candidate.speedups[size].ratio for candidate in self.candidates]),
            "size": self.front([candidate.size_bytes for candidate in self.candidates]),
        }


def _over_eager(report: Report) -> tuple[Speedup, ...]:
    """Return the speedups of the quantized network over the float network in eager execution."""
    return compared(report).speedups if report.runtime == Eager.name else _eager(report).quantized_speedups


def _eager(report: Report) -> OtherFloat:
    """Return the float network in eager execution, which is timed beside the networks in any other runtime."""
    return next(other for other in report.others if other.runtime == Eager.name)


def _inverse(speedup: Speedup) -> Speedup:
    """Return the speedup of the other network over the one."""
    low, high = (None if end is None else 1 / end for end in (speedup.high, speedup.low))
    ratios = tuple(1 / ratio for ratio in speedup.per_placement)
    return Speedup(speedup.batch_size, 1 / speedup.ratio, low, high, speedup.margin, ratios)

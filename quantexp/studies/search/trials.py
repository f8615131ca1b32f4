"""The progress of a search: what was tried, and how many variants may follow."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from quantexp.config import Experiment
from quantexp.results import Report
from quantexp.studies.search.findings import Candidate, Choice, Goal, SearchReport
from quantexp.studies.search.space import Space
from quantexp.studies.search.table import answer_text
from quantexp.system.errors import BenchmarkError, QuantexpError, QuantizationError

log = logging.getLogger(__name__)


@dataclass
class Trials:
    """What was tried so far, and the budget of variants.

    `runtimes` are those to choose from; with several, a runtime that cannot execute a network does not end the search.
    """

    goal: Goal
    checkpoint: str | None
    runtimes: tuple[str, ...]
    left_out: Mapping[str, str]
    budget: int
    asked: int = 0
    floats: list[Candidate] = field(default_factory=list)
    tried: list[Candidate] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.asked >= self.budget

    @property
    def several(self) -> bool:
        """Whether there are several runtimes to choose from."""
        return len(self.runtimes) > 1

    @property
    def handled(self) -> tuple[type[QuantexpError], ...]:
        """The errors of a variant that do not end the search."""
        return (QuantizationError, BenchmarkError) if self.several else (QuantizationError,)

    def whole(self, space: Space) -> Candidate:
        """Return the candidate of a method and runtime that quantizes everything; it is tried first."""
        place = (space.method, space.runtime)
        return next(tried for tried in self.tried if (tried.choice.method, tried.choice.runtime) == place)

    def unquantized(self, runtime: str) -> Candidate | None:
        """Return the float network in a runtime, None if nothing ran there."""
        return next((candidate for candidate in self.floats if candidate.choice.runtime == runtime), None)

    def report(self) -> SearchReport:
        """Return the report so far."""
        return SearchReport(
            self.goal,
            tuple(self.floats),
            tuple(self.tried),
            dict(self.failed),
            checkpoint=self.checkpoint,
            runtimes=self.runtimes,
            left_out=self.left_out,
        )

    def take(self, choice: Choice, report: Report) -> Candidate:
        """Add a measured run."""
        self.take_float(report)
        self.tried.append(Candidate.measured(choice, report, over_eager=self.several))
        found = self.report()
        log.info("best      %d variants: %s", len(self.tried), answer_text(found))
        return self.tried[-1]

    def take_float(self, report: Report) -> None:
        """Add the float network of a run, if it is the first in its runtime."""
        if self.unquantized(report.runtime) is None:
            self.floats.append(Candidate.unquantized(report, over_eager=self.several))

    def fail(self, experiment: Experiment, name: str, error: QuantexpError) -> None:
        """Add a variant that could not be measured."""
        where = f" in {experiment.runtime.name}" * self.several
        self.failed[f"{experiment.quant.name}{where}, {name}"] = str(error)

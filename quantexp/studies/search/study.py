"""Mixed precision under a bound: which layers to quantize, and with which method, found by hill climbing.

A state gives each part a method, or float. For each method, the climb starts with all parts quantized; the neighbours
of a state differ from it in one part. All neighbours of the start are measured, which shows the cost of each part. From
then on the climb moves to the first better neighbour, trying first the changes that helped the start most, and ends if
none is better: p parts and m steps take about p + m runs, and p more to confirm. `Goal` says which of two is better,
on the validation split, or without labels on the evaluated examples.

The answer is the best candidate that was measured. No change of a single part improves it; a change of several might.
A static network of flow fx may leave parts to dynamic quantization if both methods are allowed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from quantexp.analysis.quality import closeness_db
from quantexp.config import METHODS, ByLayer, Criterion, EvaluationSplit, Experiment, Search, Single
from quantexp.reports.findings import Findings
from quantexp.results import Report
from quantexp.studies.criteria import compared
from quantexp.studies.search.findings import Candidate, Choice, Goal, SearchReport
from quantexp.studies.search.space import Space, State, held_by, spaces_of
from quantexp.studies.search.table import answer_text, findings, so_far
from quantexp.system.errors import QuantizationError

log = logging.getLogger(__name__)

HELD_OUT = 0.1  # default share of the training examples held out for validation
UNKNOWN = 1e9  # more than any loss
MOST_DB = 1e3  # for equal outputs


@dataclass
class Trials:
    """What was tried so far, and the budget of variants."""

    goal: Goal
    checkpoint: str | None
    budget: int
    asked: int = 0
    unquantized: Candidate | None = None
    tried: list[Candidate] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.asked >= self.budget

    def whole(self, method: str) -> Candidate:
        """Return the candidate of a method that quantizes everything; it is tried first."""
        return next(candidate for candidate in self.tried if candidate.choice.method == method)

    def report(self) -> SearchReport:
        """Return the report so far."""
        assert self.unquantized is not None
        return SearchReport(
            self.goal, self.unquantized, tuple(self.tried), dict(self.failed), checkpoint=self.checkpoint
        )

    def take(self, choice: Choice, report: Report) -> Candidate:
        """Add a measured run."""
        self.unquantized = self.unquantized or Candidate.unquantized(report)
        self.tried.append(Candidate.measured(choice, report))
        found = self.report()
        log.info("best      %d variants: %s", len(self.tried), answer_text(found))
        return self.tried[-1]


def find(
    settings: Search, experiment: Experiment, command: Callable[[Experiment], str]
) -> Generator[Experiment | Findings, Any, Findings]:
    """Yield the variants of `experiment`, receive their reports, yield the findings so far, return the final ones.

    Args:
        settings: The bound, the objective, and the methods and layers to choose from.
        experiment: The experiment to vary; with labels, all variants but the last are measured on the validation split.
        command: Returns the command that runs an experiment alone.

    Raises:
        QuantizationError: If no variant can be quantized, or `study.layers` matches no quantized layer.
    """
    experiment = replace(experiment, study=Single())
    if experiment.labelled:
        validation = experiment.validation or HELD_OUT
        experiment = replace(experiment, validation=validation, evaluation=EvaluationSplit.validation)
    size = settings.batch_size or max(experiment.batch_size)
    goal = Goal(*settings.bound, settings.objective, size, experiment.benchmark.margin)
    trials = Trials(goal, experiment.train.checkpoint, settings.max_variants)
    wholes = yield from _wholes(trials, list(_methods(settings, experiment)))
    spaces = spaces_of(settings.layers, wholes)
    local = True
    for number, space in enumerate(spaces, 1):
        trials.budget = settings.max_variants * number // len(spaces)  # equal shares for all methods
        local &= yield from _climb(space, trials)
    found = replace(trials.report(), ended="local" if local else "budget")
    if found.answer is not found.unquantized:
        space = next(space for space in spaces if space.method == found.answer.choice.method)
        answer = space.variant(found.answer.choice)
        if experiment.labelled:
            answer = replace(answer, evaluation=EvaluationSplit.test)
            tested = yield answer
            found = replace(found, tested=tested)
        found = replace(found, command=command(answer))
    return findings(found)


def _methods(settings: Search, experiment: Experiment) -> Iterator[Experiment]:
    """Yield an experiment for each method, with the layers that the original experiment keeps in float."""
    own = experiment.quant
    assert isinstance(own, ByLayer)  # checked by Experiment
    classes = {method.name: method for method in METHODS if issubclass(method, ByLayer)}
    for name in settings.methods or [own.name]:
        if name == own.name:
            yield experiment
        else:
            quant = classes[name](include=list(own.include), exclude=list(own.exclude))
            yield replace(experiment, quant=quant, precision=None)


def _wholes(
    trials: Trials, experiments: Sequence[Experiment]
) -> Generator[Experiment | Findings, Any, list[tuple[Experiment, Report]]]:
    """Measure each method with everything quantized; return those that work, raise if none does."""
    found, errors = [], []
    for experiment in experiments:
        trials.asked += 1
        try:
            report = yield experiment
        except QuantizationError as error:
            errors.append(error)
            trials.failed[f"{experiment.quant.name}, all"] = str(error)
            continue
        found.append((experiment, report))
        trials.take(Choice("all", experiment.quant.name, held_by(experiment, report)), report)
        yield so_far(trials.report())
    if not found:
        raise errors[0]
    return found


def _climb(space: Space, trials: Trials) -> Generator[Experiment | Findings, Any, bool]:
    """Climb from everything quantized until no change of one part is better; return whether that was reached.

    If that misses the bound, continue from everything in float.
    """
    goal, at = trials.goal, space.top
    known: dict[State, Candidate | None] = {at: trials.whole(space.method)}
    surveyed = False
    while True:
        fresh = [state for state in space.neighbours(at) if state not in known]
        if not fresh:
            best = known[at]
            if space.bottom in known or (best and goal.met_by(best)):
                return True
            fresh = [space.bottom]
        for state in sorted(fresh, key=lambda other: _promise(goal, other, at, space.top, known)):
            if trials.spent:
                return False
            known[state] = yield from _measured(trials, space, space.choice(state))
            if surveyed and _best(goal, known) == state:
                break
        surveyed = fresh != [space.bottom]
        at = _best(goal, known)


def _measured(trials: Trials, space: Space, choice: Choice) -> Generator[Experiment | Findings, Any, Candidate | None]:
    """Yield a variant and return what it measured; None if it cannot be quantized."""
    if not choice.layers:
        return trials.unquantized
    trials.asked += 1
    try:
        report = yield space.variant(choice)
    except QuantizationError as error:
        trials.failed[f"{choice.method}, {choice.name}"] = str(error)
        return None
    candidate = trials.take(choice, report)
    yield so_far(trials.report())
    return candidate


def _best(goal: Goal, known: Mapping[State, Candidate | None]) -> State:
    measured = {state: candidate for state, candidate in known.items() if candidate}
    best = goal.best(list(measured.values()))
    return next(state for state, candidate in measured.items() if candidate is best)


def _promise(
    goal: Goal, state: State, at: State, top: State, known: Mapping[State, Candidate | None]
) -> tuple[float, float]:
    """Return the expected loss of a neighbour: the effect of its change when everything else is quantized."""
    part = next(index for index, became in enumerate(state) if became != at[index])
    new, old = (_degradation(goal, known.get((*top[:part], other[part], *top[part + 1 :]))) for other in (state, at))
    return new[0] - old[0], new[1] - old[1]


def _degradation(goal: Goal, candidate: Candidate | None) -> tuple[float, float]:
    """Return the loss by the criterion and the noise in dB, or UNKNOWN."""
    if candidate is None or candidate.report is None:
        return UNKNOWN, 0.0
    noise = -max(-MOST_DB, min(MOST_DB, closeness_db(compared(candidate.report))))
    return (noise if goal.criterion is Criterion.output_sqnr_db else goal.degradation(candidate)), noise

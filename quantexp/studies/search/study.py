"""Mixed precision under a bound: which layers to quantize, with which method, in which runtime, by hill climbing.

A state gives each part a method, or float. For each method in each runtime, the climb starts with all parts quantized;
the neighbours of a state differ from it in one part. All neighbours of the start are measured, which shows the cost of
each part. From then on the climb moves to the first better neighbour, trying first the changes that helped the start
most, and ends if none is better: p parts and m steps take about p + m runs, and p more to confirm. `Goal` says which of
two is better, on the validation split, or without labels on the evaluated examples.

The answer is the best candidate that was measured. No change of a single part improves it; a change of several might.
A static network of flow fx may leave parts to dynamic quantization if both methods are allowed.

With several runtimes the float network in each of them is a candidate too, and all are compared by their speedup over
the float network in eager execution, which is timed in turns with each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantexp.analysis.quality import closeness_db
from quantexp.config import ByLayer, Criterion, EvaluationSplit, Experiment, NoQuant, Search, Single, runtime_named
from quantexp.quant import flows
from quantexp.reports.findings import Findings
from quantexp.results import Report
from quantexp.runtimes import require
from quantexp.studies.criteria import compared
from quantexp.studies.search.findings import FLOAT, Candidate, Choice, Goal
from quantexp.studies.search.space import Space, State, held_by, spaces_of
from quantexp.studies.search.table import findings, so_far
from quantexp.studies.search.trials import Trials

HELD_OUT = 0.1  # default share of the training examples held out for validation
UNKNOWN = 1e9  # more than any loss
MOST_DB = 1e3  # for equal outputs


def find(
    settings: Search, experiment: Experiment, command: Callable[[Experiment], str]
) -> Generator[Experiment | Findings, Any, Findings]:
    """Return a search: it yields the variants of `experiment`, receives their reports, yields the findings so far.

    Args:
        settings: The bound, the objective, and the methods, runtimes and layers to choose from.
        experiment: The experiment to vary; with labels, all variants but the last are measured on the validation split.
        command: Returns the command that runs an experiment alone.

    Raises:
        ConfigError: If the packages of a flow or a runtime are missing.
        BenchmarkError: If this machine does not support a runtime.
        QuantizationError: During the search, if no variant can be quantized, or `study.layers` matches no quantized
            layer.
    """
    experiment = replace(experiment, study=Single())
    if experiment.labelled:
        validation = experiment.validation or HELD_OUT
        experiment = replace(experiment, validation=validation, evaluation=EvaluationSplit.validation)
    assert isinstance(experiment.quant, ByLayer)  # checked by Experiment
    pairs = list(settings.pairs(experiment.quant, str(experiment.precision), experiment.runtime))
    possible = [
        replace(experiment, quant=pair.quant, precision=pair.precision, runtime=pair.runtime)
        for pair in pairs
        if not pair.fault
    ]
    runtimes = tuple(settings.runtimes or [experiment.runtime.name])
    floats = [_in_float(experiment, runtime) for runtime in runtimes if len(runtimes) > 1]
    for variant in (*possible, *floats):
        flows.require(variant.quant)
        require(variant.runtime)
    size = settings.batch_size or max(experiment.batch_size)
    goal = Goal(*settings.bound, settings.objective, size, experiment.benchmark.margin)
    left_out = {pair.name: pair.fault for pair in pairs if pair.fault}
    trials = Trials(goal, experiment.train.checkpoint, runtimes, left_out, settings.max_variants)
    return _searched(settings, possible, floats, trials, command)


def _in_float(experiment: Experiment, runtime: str) -> Experiment:
    """Return the run of the float network in a runtime."""
    chosen = experiment.runtime if runtime == experiment.runtime.name else runtime_named(runtime)()
    return replace(experiment, quant=NoQuant(), precision=None, runtime=chosen)


def _searched(
    settings: Search,
    experiments: Sequence[Experiment],
    floats: Sequence[Experiment],
    trials: Trials,
    command: Callable[[Experiment], str],
) -> Generator[Experiment | Findings, Any, Findings]:
    """Search the methods and runtimes of the experiments, return the findings; `floats` has one for each runtime."""
    wholes = yield from _wholes(trials, experiments)
    for experiment in floats:
        yield from _float(trials, experiment)
    spaces = spaces_of(settings.layers, wholes)
    local = True
    for number, space in enumerate(spaces, 1):
        trials.budget = settings.max_variants * number // len(spaces)  # equal shares for all
        local &= yield from _climb(space, trials)
    found = replace(trials.report(), ended="local" if local else "budget")
    choice = found.answer.choice
    if found.answer.report:
        space = next(space for space in spaces if (space.method, space.runtime) == (choice.method, choice.runtime))
        answer = space.variant(choice)
        if answer.labelled:
            answer = replace(answer, evaluation=EvaluationSplit.test)
            tested = yield answer
            found = replace(found, tested=tested)
        found = replace(found, command=command(answer))
    elif trials.several:
        answer = next(experiment for experiment in floats if experiment.runtime.name == choice.runtime)
        found = replace(found, command=command(replace(answer, evaluation=EvaluationSplit.test)))
    return findings(found)


def _wholes(
    trials: Trials, experiments: Sequence[Experiment]
) -> Generator[Experiment | Findings, Any, list[tuple[Experiment, Report]]]:
    """Measure each method in each runtime with everything quantized; return those that work, raise if none does."""
    found, errors = [], []
    for experiment in experiments:
        trials.asked += 1
        try:
            report = yield experiment
        except trials.handled as error:
            errors.append(error)
            trials.fail(experiment, "all", error)
            continue
        found.append((experiment, report))
        held = held_by(experiment, report)
        trials.take(Choice("all", experiment.quant.name, held, runtime=experiment.runtime.name), report)
        yield so_far(trials.report())
    if not found:
        raise errors[0]
    return found


def _float(trials: Trials, experiment: Experiment) -> Generator[Experiment | Findings, Any, None]:
    """Measure the float network in a runtime alone, if nothing quantized was measured there."""
    if trials.unquantized(experiment.runtime.name):
        return
    try:
        report = yield experiment
    except trials.handled as error:
        trials.failed[f"{FLOAT} in {experiment.runtime.name}"] = str(error)
    else:
        trials.take_float(report)
        yield so_far(trials.report())


def _climb(space: Space, trials: Trials) -> Generator[Experiment | Findings, Any, bool]:
    """Climb from everything quantized until no change of one part is better; return whether that was reached.

    If that misses the bound, continue from everything in float.
    """
    goal, at = trials.goal, space.top
    known: dict[State, Candidate | None] = {at: trials.whole(space)}
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
        return trials.unquantized(space.runtime)
    trials.asked += 1
    variant = space.variant(choice)
    try:
        report = yield variant
    except trials.handled as error:
        trials.fail(variant, choice.name, error)
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

"""What works for a network: every method, flow, precision and engine is tried, in each runtime.

The float network comes first: if it does not work in a runtime, nothing does. All others are tried at once, in worker
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from quantexp.config import Compatibility, CustomModel, Engine, Experiment
from quantexp.quant.engine import supported_engines
from quantexp.reports.findings import Findings
from quantexp.results.compatibility import Cell, CompatibilityReport, Outcome, Row, Word
from quantexp.studies.compatibility.cells import cells, in_float, variant
from quantexp.studies.compatibility.table import best, findings
from quantexp.system.errors import ConfigError, QuantexpError


@dataclass(frozen=True)
class Trial:
    """A cell to be tried, with its run.

    `weights` identifies those of the float network: only with the same weights an earlier outcome is taken again. None
    tries it in any case.
    """

    cell: Cell
    experiment: Experiment
    weights: str | None = None


Trials = tuple[Trial, ...]
Outcomes = dict[Cell, Outcome]


def find(
    settings: Compatibility, experiment: Experiment, command: Callable[[Experiment], str]
) -> Generator[Trials, Outcomes, Findings]:
    """Yield what is to be tried, receive the outcomes, return the findings.

    Raises:
        QuantexpError: If the float network cannot be built or run, or its data are not as they must be.
    """
    runtimes = settings.runtimes or [experiment.runtime.name]
    floats = [in_float(runtime) for runtime in runtimes]
    references = yield tuple(Trial(cell, variant(experiment, cell)) for cell in floats)
    if not any(map(_runs, references.values())):
        raise QuantexpError(
            f"the float network must run before anything can be tried, but it does not: {_why(references[floats[0]])}"
        )
    rows = [Row(cell, references[cell]) for cell in floats]
    engines = [engine for engine in Engine if engine.value in supported_engines()]
    every = list(cells(engines, runtimes))
    trials: list[Trial] = []
    for cell in every:
        reference = references[in_float(cell.runtime)]
        if not _runs(reference):
            rows.append(
                Row(cell, replace(reference, reason=f"the float network in {cell.runtime}: {reference.reason}"))
            )
            continue
        try:
            trials.append(Trial(cell, variant(experiment, cell, reference.examples), reference.key))
        except ConfigError as error:
            rows.append(Row(cell, Outcome(Word.refused, str(error))))
    found = yield tuple(trials)
    rows += [Row(trial.cell, found[trial.cell]) for trial in trials]
    order = {cell: at for at, cell in enumerate((*floats, *every))}
    rows.sort(key=lambda row: order[row.cell])
    chosen = best(rows)
    typed = command(next(trial.experiment for trial in trials if trial.cell == chosen)) if chosen else None
    return findings(CompatibilityReport(_network(experiment), experiment.data.value, tuple(rows), chosen, typed))


def _runs(reference: Outcome) -> bool:
    """Return whether a float network computes something, right or wrong."""
    return reference.word in (Word.works, Word.wrong)


def _why(outcome: Outcome) -> str:
    return f"{outcome.word}: {outcome.reason}" if outcome.word is not Word.refused else outcome.reason


def _network(experiment: Experiment) -> str:
    """Return task and network as tables name them: `mnist (sample), lenet5`."""
    model, source = experiment.model, experiment.data.value
    name = str(model.target).rpartition(".")[2] if isinstance(model, CustomModel) else model.name
    return f"{experiment.task.name}{'' if source == 'full' else f' ({source})'}, {name}"

"""Run a study that tries its variants: each in a worker process, several at once, with limits on time and memory.

Every outcome is recorded in the study's own run as soon as it is there. The same command takes the recorded ones again.
"""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import psutil

from quantexp.config import Compatibility, Experiment, NoQuant, Single
from quantexp.reports.findings import Findings
from quantexp.results.compatibility import Cell, Outcome, parse_outcome
from quantexp.runner.load import checkpoint_folder
from quantexp.runner.tracked import Request, log_findings, tracked_run
from quantexp.system.errors import TrackingError
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.runner.pool import Pool
    from quantexp.studies.compatibility.study import Outcomes, Trial, Trials
    from quantexp.tracking.run import TrackedRun
    from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

OUTCOMES_FILE = "outcomes.json"


def run_trials(experiment: Experiment, request: Request, trials: Any) -> Findings:
    """Try what the study yields, show its table, record it.

    Args:
        experiment: The experiment of the study.
        request: How it was requested.
        trials: The study: it yields `Trials`, receives their `Outcomes`, and returns its findings.

    Raises:
        QuantexpError: If the float network does not run, or the result cannot be recorded.
    """
    from quantexp.mission import load
    from quantexp.runner.described import described
    from quantexp.runner.identity import identity_of
    from quantexp.runner.pool import UNUSED, Pool
    from quantexp.runner.worker import Setup
    from quantexp.system.environment import usable_cores
    from quantexp.tracking.studies import find_study, study_tags

    settings = experiment.study
    assert isinstance(settings, Compatibility)
    base = replace(experiment, quant=NoQuant(), precision=None, study=Single())
    digest = identity_of(experiment, load(base).fingerprint).digest
    workers = usable_cores()
    memory_gb = settings.memory_gb or psutil.virtual_memory().available / 1e9 / workers

    def find(store: Store) -> str | None:
        return find_study(store, digest, request.parent) if settings.resume else None

    tagged = replace(request, tags={**request.tags, **study_tags(digest)})
    with ExitStack() as stack:
        tracked = stack.enter_context(tracked_run(experiment, tagged, find))
        weights = stack.enter_context(checkpoint_folder(experiment))
        setup = Setup(described(base, UNUSED), settings.seconds, memory_gb, str(weights) if weights else None)
        pool = stack.enter_context(Pool(setup, workers))
        found = _answered(trials, _Outcomes(tracked), pool)
        show(found.table.rich())
        log_findings(tracked, found)
    return found


def _answered(trials: Any, known: _Outcomes, pool: Pool) -> Findings:
    """Send the study the outcomes of what it yields, until it returns its findings."""
    try:
        yielded: Trials = next(trials)
        while True:
            yielded = trials.send(_tried(yielded, known, pool))
    except StopIteration as end:
        found: Findings = end.value
        return found


def _tried(trials: Trials, known: _Outcomes, pool: Pool) -> Outcomes:
    """Return the outcome of each trial, from the record or from a worker."""
    found = {trial.cell: outcome for trial in trials if (outcome := known.get(trial))}
    if found:
        log.info("%d of %d rows were tried before", len(found), len(trials))
    remaining = [trial for trial in trials if trial.cell not in found]
    for at, outcome in pool.outcomes([trial.experiment for trial in remaining]):
        trial = remaining[at]
        found[trial.cell] = outcome
        known.add(trial, outcome)
        log.info("row %2d of %d  %s: %s", len(found), len(trials), trial.cell, outcome.word)
    return found


class _Outcomes:
    """The outcomes in the record of a study, which a study that is resumed takes again."""

    def __init__(self, tracked: TrackedRun) -> None:
        self._tracked = tracked
        self._recorded = _read(tracked)

    def get(self, trial: Trial) -> Outcome | None:
        """Return the outcome of a trial if it is recorded for the same weights of the float network."""
        return self._recorded.get((trial.cell, trial.weights)) if trial.weights else None

    def add(self, trial: Trial, outcome: Outcome) -> None:
        """Record an outcome at once."""
        if trial.weights is None:
            return
        self._recorded[trial.cell, trial.weights] = outcome
        rows = [
            {"cell": asdict(cell), "weights": weights, "outcome": asdict(known)}
            for (cell, weights), known in self._recorded.items()
        ]
        self._tracked.log_text(OUTCOMES_FILE, json.dumps(rows, indent=1))


def _read(tracked: TrackedRun) -> dict[tuple[Cell, str], Outcome]:
    """Return the recorded outcomes; none of a new run, or if they cannot be read."""
    from quantexp.tracking.artifacts import read_artifact

    if (store := tracked.store) is None:
        return {}
    try:
        rows = json.loads(read_artifact(store, store.run(tracked.run_id), OUTCOMES_FILE))
        return {(Cell(**row["cell"]), str(row["weights"])): parse_outcome(row["outcome"]) for row in rows}
    except (TrackingError, ValueError, TypeError, KeyError):  # not there yet, of another version, or damaged
        return {}

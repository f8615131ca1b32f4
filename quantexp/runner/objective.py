"""What a job of a search returns to its sweeper: the values of `sweep.objective`, also of a run that is skipped."""

from __future__ import annotations

import logging

from quantexp.config import Experiment
from quantexp.config.objectives import find_objective
from quantexp.runner.identity import configuration_digest
from quantexp.runner.jobs import Ongoing
from quantexp.tracking.names import CONFIGURATION, PARENT
from quantexp.tracking.store import RunFacts, Store, open_store

log = logging.getLogger(__name__)


def finished_run(store: Store, parent: str, experiment: Experiment) -> RunFacts | None:
    """Return the latest finished run of a sweep with the configuration of the experiment. Raises TrackingError."""
    digest = configuration_digest(experiment)
    found = store.search(f"tags.`{PARENT}` = '{parent}' and tags.`{CONFIGURATION}` = '{digest}'")
    return next((run for run in found if run.finished), None)


def objectives_of(ongoing: Ongoing, experiment: Experiment) -> list[float] | None:
    """Return the values of the sweep's objectives as recorded; None if it has none, or a value is missing."""
    wanted = [found for name in ongoing.objectives if (found := find_objective(name))]
    if not wanted or (run := finished_run(open_store(experiment.tracking), ongoing.parent, experiment)) is None:
        return None
    values = [objective.value(run.metrics) for objective in wanted]
    if missing := [objective.name for objective, value in zip(wanted, values, strict=True) if value is None]:
        log.warning("sweep.objective=%s has no value for %s; this trial fails", missing[0], run.name)
    return None if missing else [value for value in values if value is not None]

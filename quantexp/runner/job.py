"""One job of a sweep: it is run, or skipped if it finished before; its failure is an outcome like others."""

from __future__ import annotations

import logging
import traceback
from dataclasses import replace
from pathlib import Path

from quantexp.config import Experiment, Single
from quantexp.runner.identity import configuration_digest
from quantexp.runner.jobs import JobOutcome, Ongoing, State
from quantexp.runner.objective import objectives_of
from quantexp.runner.study import run_experiment
from quantexp.runner.tracked import Request
from quantexp.system.errors import INTERNAL_ERROR, QuantexpError

log = logging.getLogger(__name__)


def perform(started: JobOutcome, experiment: Experiment, request: Request, sweep: Path) -> JobOutcome:
    """Run and record the experiment of a job, if it is not finished; return its outcome.

    Args:
        started: Its outcome so far.
        experiment: What is run.
        request: How it was requested.
        sweep: The directory of the sweep.
    """
    try:
        ongoing = Ongoing.read(sweep)
        if reason := ongoing.reason_to_skip(experiment):
            log.info("skip      %s", reason)
            return replace(started, state=State.skipped, objectives=objectives_of(ongoing, experiment))
        digest = configuration_digest(experiment) if isinstance(experiment.study, Single) else None
        run_checked(experiment, request)
        objectives = objectives_of(ongoing, experiment)
        return replace(started, state=State.done, objectives=objectives, configuration=digest)
    except Exception as error:  # one failed run must not end the others
        return failure(started, error)


def failure(started: JobOutcome, error: Exception) -> JobOutcome:
    """Log why a job failed, and return it as its outcome."""
    if not isinstance(error, QuantexpError):
        log.error("%s%s", "".join(traceback.format_exception(error)), INTERNAL_ERROR)
    log.error("this run failed: %s", error)
    return replace(started, state=State.failed, error=f"{type(error).__name__}: {error}")


def run_checked(experiment: Experiment, request: Request) -> None:
    """Run and record an experiment. Raises QuantexpError, also if code of the user calls sys.exit."""
    try:
        run_experiment(experiment, request)
    except SystemExit as error:  # Python would end without a message, and with 0
        raise QuantexpError(
            f"code that the run called has called sys.exit({error.code!r}); remove that call"
        ) from error

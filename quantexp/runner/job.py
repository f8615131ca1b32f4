"""One job of a sweep: it is run, or skipped if it finished before; its failure is an outcome like others."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from quantexp.config import Experiment
from quantexp.runner.jobs import JobOutcome, Ongoing
from quantexp.runner.tracked import Request
from quantexp.system.errors import QuantexpError

log = logging.getLogger(__name__)

INTERNAL_ERROR = "internal error; please report it with the lines above"


def perform(experiment: Experiment, request: Request, sweep: Path) -> JobOutcome:
    """Run and record the experiment of a job, if it is not finished; return its outcome.

    Args:
        experiment: What is run.
        request: How it was requested.
        sweep: The directory of the sweep.
    """
    from quantexp.runner.objective import objectives_of, with_latest
    from quantexp.runner.study import run_experiment

    asked = " ".join(request.overrides)
    try:
        ongoing = with_latest(Ongoing.read(sweep), experiment)
        if reason := ongoing.reason_to_skip(experiment):
            log.info("skip      %s", reason)
            return JobOutcome("skipped", asked, objectives=objectives_of(ongoing, experiment))
        run_experiment(experiment, request)
        return JobOutcome("done", asked, objectives=objectives_of(ongoing, experiment))
    except Exception as error:  # one failed run must not end the others
        return failure(asked, error)


def failure(asked: str, error: Exception) -> JobOutcome:
    """Log why a job failed, and return it as its outcome."""
    if not isinstance(error, QuantexpError):
        log.error("%s%s", "".join(traceback.format_exception(error)), INTERNAL_ERROR)
    log.error("this run failed: %s", error)
    return JobOutcome("failed", asked, f"{type(error).__name__}: {error}")

"""One run: the mission with the weights that it starts from, its record and its table."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.config import Experiment
from quantexp.runner.labels import network_title
from quantexp.runner.load import checkpoint_folder, pinned
from quantexp.runner.tracked import Request, log_result, tracked_run
from quantexp.system.errors import TrackingError
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.mission import RunResult
    from quantexp.results import Report


def run(experiment: Experiment) -> RunResult:
    """Train or load, quantize, inspect, measure; nothing is recorded or shown.

    Raises:
        QuantexpError: DataError, CacheError, TrainingError, QuantizationError or BenchmarkError; TrackingError if
            the run that `train.checkpoint` names cannot be read.
    """
    from quantexp import mission

    with checkpoint_folder(experiment) as weights:
        return mission.run(experiment, weights)


def run_single(experiment: Experiment, request: Request) -> RunResult:
    """Run, show the table, record. A result that cannot be recorded is kept in a file.

    Raises:
        QuantexpError: Whatever `run` raises, or TrackingError.
    """
    from quantexp.reports.table import comparison_table
    from quantexp.runner.identity import identity_of

    choices = request.choices
    experiment = pinned(experiment)
    with tracked_run(experiment, request) as tracked:
        result = run(experiment)
        model = network_title(experiment.model, choices["model"])
        report = replace(result.report, task=choices["task"], model=model, quant=choices["quant"])
        if not request.quiet:
            show(comparison_table(report).rich())
        try:
            identity = identity_of(experiment, report.data.fingerprint)
            drawn = request.parent is None  # a sweep has its own pictures
            log_result(
                tracked,
                replace(result, report=report),
                identity,
                drawn=drawn,
                store_model=experiment.tracking.store_model,
            )
        except TrackingError as error:
            raise TrackingError(f"{error}\n{rescue(report)}") from error
    return replace(result, report=report)


def rescue(report: Report) -> str:
    """Write a report that could not be recorded to a writable folder, and return a message with its place."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            handle, name = tempfile.mkstemp(prefix="quantexp-report-", suffix=".json", dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(report.to_json())
        except OSError:
            continue
        return f"The result is kept in {name}"
    return "No folder is writable, so only the table above is left of the result"

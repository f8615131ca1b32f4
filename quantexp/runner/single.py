"""One run: the mission with the weights that it starts from, its record and its table."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import Future
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
    from quantexp.tasks.data import TaskData


def run(experiment: Experiment, data: TaskData | None = None) -> RunResult:
    """Train or load, quantize, inspect, measure; nothing is recorded or shown.

    Args:
        experiment: The options of the run.
        data: The data of the task, if they are loaded.

    Raises:
        QuantexpError: DataError, CacheError, TrainingError, QuantizationError or BenchmarkError; TrackingError if
            the run that `train.checkpoint` names cannot be read.
    """
    from quantexp import mission

    with checkpoint_folder(experiment) as weights:
        return mission.run(experiment, weights, data)


def run_single(experiment: Experiment, request: Request) -> RunResult:
    """Run, show the table, record. A result that cannot be recorded is kept in a file.

    The store of a single run is opened when the data are loaded, as importing MLflow takes as long as importing torch.

    Raises:
        QuantexpError: Whatever `run` raises, or TrackingError.
    """
    from quantexp.reports.table import comparison_table
    from quantexp.runner.identity import identity_of

    choices = request.choices
    experiment = pinned(experiment)
    data = _loaded(experiment) if request.parent is None else None
    with tracked_run(experiment, request) as tracked:
        result = run(experiment, data.result() if data else None)
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


def _loaded(experiment: Experiment) -> Future[TaskData]:
    """Load the data of a run, or keep the error that is raised when the run is recorded. Raises TrackingError."""
    from quantexp.loading import load
    from quantexp.tracking.store import check_place

    check_place(experiment.tracking)
    loaded: Future[TaskData] = Future()
    try:
        loaded.set_result(load(experiment))
    except Exception as error:
        loaded.set_exception(error)
    return loaded


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

"""One run with everything around it: in the store from its start to its end, its table on the screen."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.config import Experiment
from quantexp.system import interrupt
from quantexp.system.errors import QuantexpError, TrackingError
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.mission import Outcome
    from quantexp.reports.findings import Findings
    from quantexp.results import Report
    from quantexp.tracking.record import Recorder
    from quantexp.tracking.store import Store

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "not enough memory")


@dataclass(frozen=True)
class Request:
    """How a run was asked for: the chosen names by group, the overrides as typed, the composed YAML.

    `parent` is the run of the sweep or study that it belongs to; `tags` are further tags of its record. Of a run
    that is `quiet` neither its table nor where it is recorded is shown.
    """

    choices: Mapping[str, str]
    overrides: Sequence[str]
    yaml: str
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    quiet: bool = False


def perform(experiment: Experiment, request: Request) -> Outcome:
    """Run, show the table, record. A result that cannot be recorded is kept in a file.

    Raises:
        QuantexpError: Whatever `run` raises, or TrackingError.
    """
    from quantexp.mission import run
    from quantexp.reports.table import comparison_table
    from quantexp.runner.identity import Identity

    choices = request.choices
    with recorded(experiment, request) as recorder:
        outcome = run(experiment)
        report = replace(outcome.report, task=choices["task"], model=choices["model"], quant=choices["quant"])
        outcome = replace(outcome, report=report)
        if not request.quiet:
            show(comparison_table(report).rich())
        try:
            identity = Identity.of(experiment, report.data.fingerprint)
            recorder.record(outcome, identity, drawn=request.parent is None)  # a sweep draws its runs side by side
        except TrackingError as error:
            raise TrackingError(f"{error}\n{rescue(report)}") from error
    return outcome


def perform_study(experiment: Experiment, request: Request, find: Callable[[], Findings]) -> Findings:
    """Do what the study does, show its table, record. Raises whatever `find` raises, or TrackingError."""
    with recorded(experiment, request) as recorder:
        found = find()
        show(found.table.rich())
        recorder.record_findings(found)
    return found


@contextmanager
def recorded(
    experiment: Experiment, request: Request, find: Callable[[Store], str | None] = lambda store: None
) -> Iterator[Recorder]:
    """Open a run in the store and close it by what happens inside; where it stands is shown.

    Args:
        experiment: What is run.
        request: How it was asked for.
        find: Returns the id of a run in the store that shall go on, or None for a new one.

    Raises:
        TrackingError: If the store cannot be used.
    """
    from quantexp.runner.identity import configuration_digest
    from quantexp.runner.labels import parameters, run_name
    from quantexp.tracking.names import CONFIGURATION, PARENT
    from quantexp.tracking.processes import close_orphans
    from quantexp.tracking.record import recording
    from quantexp.tracking.store import open_store
    from quantexp.tracking.views import save_view

    store = open_store(experiment.tracking)
    if request.parent is None:
        close_orphans(store)
        save_view(store)
    name = run_name(experiment, request.choices, request.overrides)
    tags = {**request.tags, CONFIGURATION: configuration_digest(experiment)}
    if request.parent is not None:
        tags[PARENT] = request.parent
    record = recording(store, name, parameters(experiment, request.choices), request.yaml, tags, find(store))
    with record as recorder, interrupt.kept(), enough_memory():
        yield recorder
    if request.quiet:
        return
    lines = recorder.where()
    for line in lines if request.parent is None else lines[:1]:
        show(line)


def rescue(report: Report) -> str:
    """Keep a report that could not be recorded in the first folder that takes it, and say where."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            handle, name = tempfile.mkstemp(prefix="quantexp-report-", suffix=".json", dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(report.to_json())
        except OSError:
            continue
        return f"The result is kept in {name}"
    return "The table above is all that is left of the result: no folder takes it"


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turn what torch raises when memory ends into an error that says so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(sign in text for sign in OUT_OF_MEMORY):
            raise
        raise QuantexpError(
            f"the run must fit into memory, it does not ({text.splitlines()[0] if text else 'out of memory'}); "
            "choose a smaller network (task.hidden, model.hidden), batch_size or train.batch_size"
        ) from error

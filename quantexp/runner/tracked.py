"""A run in the store from its start to its end, and the record of its result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantexp.config import Experiment
from quantexp.results import Report, Training
from quantexp.results.identity import Identity
from quantexp.results.metrics import metrics
from quantexp.system import interrupt
from quantexp.system.errors import QuantexpError, TrackingError, out_of_memory
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.mission import RunResult
    from quantexp.reports.findings import Findings
    from quantexp.tracking.delivery import Delivered
    from quantexp.tracking.run import Dataset, Point, TrackedRun
    from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

DECIMALS = 6  # of a metric


@dataclass(frozen=True)
class Request:
    """How a run was requested: the chosen names by group, the overrides as typed, the composed YAML.

    `parent` is the run of the sweep or study that it belongs to; `tags` are further tags of the run. If
    `quiet`, neither the run's table nor its place in the store is shown.
    """

    choices: Mapping[str, str]
    overrides: Sequence[str]
    yaml: str
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    quiet: bool = False


@contextmanager
def tracked_run(
    experiment: Experiment, request: Request, find: Callable[[Store], str | None] = lambda store: None
) -> Iterator[TrackedRun]:
    """Open a run in the store, close it with the status of the block, and show where it is recorded.

    A result that the store does not take is kept on disk. A run of a sweep or study that has begun is kept, too, if the
    store does not answer when it starts.

    Args:
        experiment: What is run.
        request: How it was requested.
        find: Returns the id of the run that is resumed, or None for a new run.

    Raises:
        TrackingError: If the store cannot be used when the run starts, or does not take its result; the result is kept.
    """
    from quantexp.runner.artifacts import CONFIG_FILE
    from quantexp.runner.identity import configuration_digest
    from quantexp.runner.labels import parameters, run_name
    from quantexp.tracking.names import CONFIGURATION, PARENT
    from quantexp.tracking.run import track

    tracking = experiment.tracking
    store = _opened(experiment, request)
    name = run_name(experiment, request.choices, request.overrides)
    tags = {**request.tags, CONFIGURATION: configuration_digest(experiment)}
    if request.parent is not None:
        tags[PARENT] = request.parent
    again = find(store) if store else None
    opened = track(store, name, parameters(experiment, request.choices), tags, again, tracking)
    with opened as run, interrupt.guard(), enough_memory():
        if again is None:
            run.log_text(CONFIG_FILE, request.yaml)  # before the work starts
        yield run
    if run.kept and request.parent is None:
        raise TrackingError(run.kept)
    if run.kept:
        log.warning("%s", run.kept)
    if request.quiet or run.kept:
        return
    lines = run.where()
    for line in lines if request.parent is None else lines[:1]:
        show(line)


def _opened(experiment: Experiment, request: Request) -> Store | None:
    """Open the store; None if it does not answer, and the run is one of a sweep or study that has begun."""
    from quantexp.tracking.delivery import deliver_waiting
    from quantexp.tracking.processes import close_orphans
    from quantexp.tracking.store import open_store
    from quantexp.tracking.views import save_view

    try:
        store = open_store(experiment.tracking)
    except TrackingError:
        if request.parent is None:
            raise
        return None
    if not request.quiet:
        tell(deliver_waiting(experiment.tracking))
    if request.parent is None:
        close_orphans(store)
        save_view(store)
    return store


def tell(delivered: Delivered) -> None:
    """Log how many results were delivered that waited for their store, and why others still wait."""
    if delivered.count:
        log.info("delivered %d runs that waited for their store", delivered.count)
    for problem in delivered.problems:
        log.warning("a kept result could not be delivered: %s", problem)


def log_result(
    run: TrackedRun, result: RunResult, identity: Identity, *, drawn: bool = True, store_model: bool = True
) -> None:
    """Hand the result of a run over, with pictures if `drawn`, with the network if `store_model`.

    It is recorded when the run ends, together with its status.

    Raises:
        TrackingError: If its files can be written to no folder.
    """
    from quantexp.runner.artifacts import write_result

    report = result.report
    with run.files() as folder:
        write_result(folder, result, identity, drawn=drawn, store_model=store_model)
    run.add(points_of(report), _tags(report, identity, store_model), _dataset(report))


def log_findings(run: TrackedRun, found: Findings, step: int = 0) -> None:
    """Record the findings of a study up to a step, in place of the earlier ones. Raises TrackingError."""
    from quantexp.runner.artifacts import write_findings
    from quantexp.tracking.names import NOTE, as_note
    from quantexp.tracking.run import Point

    points = [Point(name, float(f"{value:.7g}"), step) for name, value in found.metrics.items()]
    with run.files() as folder:
        write_findings(folder, found)
    run.log(points, {NOTE: as_note(found.table.markdown())})


def points_of(report: Report) -> Iterator[Point]:
    """Yield the metrics of a report as they are recorded."""
    from quantexp.tracking.run import Point

    for name, value in metrics(report).items():
        yield Point(name, round(value, DECIMALS))
    for name, training in _curves(report):
        for step, loss in zip(training.steps, training.losses, strict=True):
            yield Point(f"train/{name}", round(loss, DECIMALS), step)


def _curves(report: Report) -> Iterator[tuple[str, Training]]:
    """Yield the loss curve of the run's network, and that of the float network if both were trained."""
    if main := report.quantized_training or report.float_training:
        yield "loss", main
    if report.quantized_training and report.float_training:
        yield "float_loss", report.float_training


def _tags(report: Report, identity: Identity, store_model: bool) -> dict[str, str]:
    from quantexp.reports.table import comparison_table
    from quantexp.tracking.names import IDENTITY, NOT_STORED, NOTE, WITHOUT_MODEL, as_note

    without = {} if store_model else {WITHOUT_MODEL: NOT_STORED}
    tags = {
        NOTE: as_note("\n".join([comparison_table(report).markdown(), *(f"{text}." for text in without.values())])),
        **without,
        "data_fingerprint": report.data.fingerprint,
        IDENTITY: identity.digest,
    }
    if report.calibration is not None:
        tags["calibration"] = report.calibration
    if report.unstable:
        tags["unstable"] = "; ".join(report.unstable)
    if report.flow is not None:
        tags["flow"] = report.flow
    if report.findings:
        tags["findings"] = "; ".join(finding.text for finding in report.findings)
    if report.comparison:
        tags |= {f"verdict_b{speedup.batch_size}": speedup.verdict for speedup in report.comparison.speedups}
        if change := report.comparison.quality:
            tags[f"verdict_{change.name}"] = change.verdict
    return tags


def _dataset(report: Report) -> Dataset:
    from quantexp.tracking.run import Dataset

    data = report.data
    rows = {"train": data.train, "calibration": data.calibration, "test": data.test}
    rows |= {"validation": data.validation} if data.validation else {}
    return Dataset(report.task_name, data.fingerprint[:16], data.origin, rows, data.evaluation)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turn torch's errors for a lack of memory into one with a repair."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not out_of_memory(error):
            raise
        raise QuantexpError(
            f"the run does not fit into memory ({text.splitlines()[0] if text else 'out of memory'}); "
            "choose a smaller network (task.hidden, model.hidden), batch_size or train.batch_size"
        ) from error

"""Where Hydra meets quantexp: jobs are run and recorded here, and what Hydra calls back stands here.

A job of a sweep records its own failure and returns: a job that raises would make Hydra skip the end
of the sweep, where the table is printed and the exit status set. Jobs leave their reports in files of
the sweep's directory, so that any launcher, in this process or another, can be used.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from quantexp import interrupt
from quantexp.compose import combinations, refuse_faults, to_experiment
from quantexp.config import Experiment
from quantexp.errors import QuantexpError, TrackingError
from quantexp.screen import leave, show
from quantexp.sweep import FAILURE, REPORT, sum_up, write_text
from quantexp.tracking.labels import without_password

if TYPE_CHECKING:
    from quantexp.experiment import Outcome
    from quantexp.report.results import Report

log = logging.getLogger(__name__)

FAILED = 1  # exit status
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "not enough memory")
OURS = "this is a fault of quantexp, not yours: please report it with the lines above"


class Edge(Callback):
    """Hydra's hooks: check before anything starts, sum up when a sweep ends."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the one run, before torch is imported."""
        refuse_faults([([], config)])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every combination, and make the store, before the first job."""
        jobs = list(combinations(config))
        refuse_faults(jobs)
        from quantexp.tracking.store import open_store

        with told():
            open_store(to_experiment(jobs[0][1]).tracking)
        log.info("sweep     %d runs", len(jobs))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of the sweep; exit with 1 if a run failed."""
        if sum_up(Path(config.hydra.sweep.dir)):
            raise SystemExit(FAILED)


def job(config: DictConfig) -> None:
    """Run and record one experiment; in a sweep, record its failure too and return."""
    hydra = HydraConfig.get()
    if hydra.mode is not RunMode.MULTIRUN:
        with told():
            perform(to_experiment(config), config)
        return
    folder = Path(hydra.runtime.output_dir)
    overrides = [without_password(text) for text in hydra.overrides.task]
    log.info("\nrun %s     %s", hydra.job.num + 1, " ".join(overrides))
    try:
        with interrupt.kept():
            outcome = perform(to_experiment(config), config)
        write_text(folder / REPORT, outcome.report.to_json())
    except KeyboardInterrupt:
        sum_up(Path(hydra.sweep.dir))
        raise
    except Exception as error:  # whatever ends one run shall not end the others
        if not isinstance(error, QuantexpError):
            log.error("%s%s", traceback.format_exc(), OURS)
        log.error("this run failed: %s", error)
        failure = {"overrides": overrides, "error": f"{type(error).__name__}: {error}"}
        write_text(folder / FAILURE, json.dumps(failure, indent=1))


def perform(experiment: Experiment, config: DictConfig) -> Outcome:
    """Run, show the table, record. A result that cannot be recorded is kept in a file."""
    from quantexp.experiment import run
    from quantexp.report.table import comparison_table
    from quantexp.tracking.labels import parameters, run_name, yaml_text
    from quantexp.tracking.record import recording
    from quantexp.tracking.store import open_store
    from quantexp.tracking.views import save_view

    hydra = HydraConfig.get()
    choices = {str(group): str(value) for group, value in hydra.runtime.choices.items()}
    overrides = list(hydra.overrides.task)
    name = run_name(experiment, choices, overrides)
    store = open_store(experiment.tracking)
    save_view(store)
    record = recording(store, name, parameters(experiment, choices), yaml_text(config, overrides))
    with record as recorder, interrupt.kept(), enough_memory():
        outcome = run(experiment)
        report = replace(outcome.report, task=choices["task"], model=choices["model"], quant=choices["quant"])
        outcome = replace(outcome, report=report)
        show(comparison_table(outcome.report).rich())
        try:
            recorder.record(outcome)
        except TrackingError as error:
            raise TrackingError(f"{error}\n{rescue(outcome.report)}") from error
    lines = recorder.where()
    for line in lines[:1] if hydra.mode is RunMode.MULTIRUN else lines:
        show(line)
    return outcome


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
def told() -> Iterator[None]:
    """Turn an error into its message and exit status 1; one that is ours comes with its traceback."""
    try:
        with interrupt.kept():
            yield
    except QuantexpError as error:
        leave(str(error), FAILED)
    except Exception as error:
        traceback.print_exc()
        leave(f"{OURS}: {type(error).__name__}: {error}", FAILED)


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

"""What Hydra calls: the checks before a run or sweep, each job, and the end of a sweep.

A job of a sweep records its own failure and returns. If it raised, Hydra would skip the end of the sweep, where the
table is printed and the exit status is set.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from quantexp.cli import launchers
from quantexp.cli.compose import BAD_VALUES, Combination, choices_of, combinations, to_experiment
from quantexp.cli.plan import plan
from quantexp.config import Tracking, Unsupported
from quantexp.runner import sweep
from quantexp.runner.isolated import perform_isolated
from quantexp.runner.job import INTERNAL_ERROR, failure, perform
from quantexp.runner.jobs import JobOutcome, Ongoing, Plan
from quantexp.runner.labels import yaml_text
from quantexp.runner.study import run_experiment
from quantexp.runner.tracked import Request
from quantexp.system import interrupt, openmp, own_code
from quantexp.system.errors import ConfigError, QuantexpError
from quantexp.system.passwords import without_password
from quantexp.system.terminal import leave

log = logging.getLogger(__name__)

FAILED = 1  # exit status
LONGEST = 500  # characters of a launcher's error


@dataclass(frozen=True)
class Open:
    """A sweep that this process runs: its directory and store, and whether its jobs run in other processes."""

    folder: Path
    tracking: Tracking
    launched: bool


_open: Open | None = None


class Hooks(Callback):
    """Check everything before the first run, and report at the end of a sweep."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run, before torch is imported."""
        if asked := [text for text in config.hydra.overrides.task if text.startswith("sweep.")]:
            leave(f"{asked[0]} is a setting of sweeps, and this is a single run; add -m for a sweep", BAD_VALUES)
        plan([Combination([], config, choices_of(config))])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every combination, and open the sweep in the store, before the first job."""
        global _open
        try:
            launchers.prepare(config)
        except ConfigError as error:
            leave(str(error), BAD_VALUES)
        planned = _planned(config)
        if config.sweep.name is None:
            leave("sweep.name=null is not a name; leave it out to use date and time", BAD_VALUES)
        with errors_as_messages():
            settings: Any = OmegaConf.to_object(config.sweep)
            command = sweep.command_line(_command(config))
            try:
                sweep.begin(_folder(config), _tracking(config), settings, planned, command)
            except ConfigError as error:
                leave(str(error), BAD_VALUES)
        _open = Open(_folder(config), _tracking(config), not launchers.in_this_process(config.hydra))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of the sweep; exit with 1 if a run failed."""
        global _open
        _open = None
        if launchers.searches(config):
            sweep.settle(_folder(config), _tracking(config))
        if sweep.sum_up(_folder(config), _tracking(config)):
            raise SystemExit(FAILED)


def job(config: DictConfig) -> float | list[float] | None:
    """Run and record one experiment; in a sweep, record its failure too and return what its sweeper improves."""
    openmp.share_cores()  # in a worker on another host, nothing is inherited
    hydra = HydraConfig.get()
    own_code.add_folder(hydra.runtime.cwd)  # the user's classes are found there, wherever a worker starts
    overrides = [without_password(text) for text in hydra.overrides.task]
    if hydra.mode is not RunMode.MULTIRUN:
        with errors_as_messages():
            experiment = to_experiment(config)
            run_experiment(experiment, _request(config, overrides))
        return None
    with interrupt.guard():
        outcome = _outcome(config, overrides)
    if outcome is None or outcome.objectives is None:
        return None
    return outcome.objectives[0] if len(outcome.objectives) == 1 else outcome.objectives


def _outcome(config: DictConfig, overrides: Sequence[str]) -> JobOutcome | None:
    """Run a job of a sweep and leave its outcome; None if it is not run."""
    hydra, folder = HydraConfig.get(), _folder(config)
    ongoing = Ongoing.read(folder)
    if hydra.job.num in ongoing.left_out:
        with suppress(OSError):
            Path(hydra.runtime.output_dir).rmdir()  # it would stay empty
        return None
    asked = " ".join(overrides)
    log.info("\nrun %s     %s", ongoing.place(hydra.job.num), asked)
    try:
        experiment, request = to_experiment(config), _request(config, overrides, parent=ongoing.parent)
        if launchers.in_this_process(hydra):
            outcome = perform(experiment, request, folder)
        else:
            outcome = perform_isolated(experiment, request, folder, hydra.job.num, hydra.runtime.cwd)
    except Exception as error:  # one failed run must not end the others
        outcome = failure(asked, error)
    sweep.leave_outcome(folder, Path(hydra.runtime.output_dir), _tracking(config), outcome)
    return outcome


def sum_up_open_sweep(error: BaseException) -> bool:
    """Sum up the sweep that this process began and that an error ended; return whether there is one."""
    global _open
    if _open is None:
        return False
    ended, _open = _open, None
    interrupted = isinstance(error, KeyboardInterrupt)
    if not interrupted:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
        log.error("the launcher or the sweeper ended the sweep: %s", reason)
    if ended.launched and not interrupted:
        try:
            sweep.report_lost(ended.folder, ended.tracking, sweep.wait_for_jobs(ended.folder))
        except KeyboardInterrupt:
            interrupted = True
    sweep.sum_up(ended.folder, ended.tracking, interrupted=interrupted)
    return True


def _planned(config: DictConfig) -> Plan:
    jobs = list(combinations(config))
    if (trials := config.hydra.sweeper.get("n_trials")) is None:
        return plan(jobs, skip_unsupported=config.sweep.unsupported is Unsupported.skip)
    plan(jobs, skip_unsupported=True)
    return Plan(int(trials))  # what they are, the sweeper decides as it goes


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn an error into its message and exit status 1; an internal error is shown with its traceback."""
    try:
        with interrupt.guard():
            yield
    except QuantexpError as error:
        leave(str(error), FAILED)
    except Exception as error:
        traceback.print_exc()
        leave(f"{INTERNAL_ERROR}: {type(error).__name__}: {error}", FAILED)


def _request(config: DictConfig, overrides: Sequence[str], parent: str | None = None) -> Request:
    hydra = HydraConfig.get()
    choices = {str(group): str(value) for group, value in hydra.runtime.choices.items()}
    return Request(choices, overrides, yaml_text(config, overrides), parent)


def _tracking(config: DictConfig) -> Tracking:
    tracking: Any = OmegaConf.to_object(config.tracking)
    return cast(Tracking, tracking)


def _folder(config: DictConfig) -> Path:
    """Return the sweep's directory."""
    hydra = HydraConfig.get() if "hydra" not in config else config.hydra
    return Path(hydra.runtime.cwd) / hydra.sweep.dir


def _command(config: DictConfig) -> list[str]:
    """Return the arguments of the sweep as they were typed."""
    preset = config.hydra.sweeper.params or {}
    asked = list(config.hydra.overrides.task)
    return asked if preset else ["-m", *asked]

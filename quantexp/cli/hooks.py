"""What Hydra calls: the checks before a run or sweep, each job, and the end of a sweep.

A job of a sweep records its own failure and returns. If it raised, Hydra would skip the end of the sweep, where the
table is printed and the exit status is set. What only runs and sweeps that have begun need is imported there, so that
wrong settings are refused at once.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantexp.cli import launchers
from quantexp.cli.compose import (
    BAD_VALUES,
    Combination,
    as_in_job,
    as_typed,
    choices_of,
    chosen_beforehand,
    combinations,
    explain,
    misread,
    swept_settings,
    to_experiment,
    typed,
)
from quantexp.cli.plan import plan
from quantexp.config import Tracking, Unsupported
from quantexp.runner.jobs import (
    JobOutcome,
    Ongoing,
    Plan,
    State,
    begun,
    fixed_settings,
    read_outcomes,
    values_digest,
    varied,
)
from quantexp.runner.labels import yaml_text
from quantexp.system import interrupt, openmp, own_code
from quantexp.system.errors import INTERNAL_ERROR, ConfigError, QuantexpError
from quantexp.system.passwords import without_password
from quantexp.system.terminal import leave

if TYPE_CHECKING:
    from quantexp.runner.tracked import Request

log = logging.getLogger(__name__)

FAILED = 1  # exit status
NOT_CHECKED = (
    "hydra.callbacks.quantexp checks a run before it starts, and must not be removed; "
    "add your own callbacks beside it, as in +hydra.callbacks.mine._target_=mine.Callback"
)
LONGEST = 500  # characters of a launcher's error

_checked = False  # whether `Hooks` has checked the run of this process
_begun: DictConfig | None = None  # the sweep that this process has begun and not ended


class Hooks(Callback):
    """Check everything before the first run, and report at the end of a sweep.

    Hydra turns an exception in a callback into a warning and goes on, so each callback ends the process itself.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run, before torch is imported."""
        global _checked
        with _checking(config):
            if asked := [text for text in typed(config.hydra.overrides.task) if text.startswith("sweep.")]:
                leave(f"{asked[0]} is a setting of sweeps, and this is a single run; add -m for a sweep", BAD_VALUES)
            if config.hydra.sweeper.get("params"):
                leave("hydra.mode=RUN is a single run, and the settings are those of a sweep; leave it out", BAD_VALUES)
            as_in_job(config)
            plan([Combination([], config, choices_of(config))])
        _checked = True

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every combination, and open the sweep in the store, before the first job."""
        global _begun
        with _checking(config):
            launchers.prepare(config)
            if faults := list(swept_settings(config)):
                leave("\n".join(faults), BAD_VALUES)
            if config.sweep.name is None:
                leave("sweep.name=null is not a name; leave it out to use date and time", BAD_VALUES)
            settings: Any = OmegaConf.to_object(config.sweep)
            tracking, folder = _tracking(config), _folder(config)
            skip = settings.unsupported is Unsupported.skip or not chosen_beforehand(config)
            planned = plan(combinations(config), skip_unsupported=skip, fixed=fixed_settings(tracking, settings))
            if not chosen_beforehand(config):
                planned = Plan(None, kept_in=planned.kept_in)
            _fix_folder(config, folder)
            from quantexp.runner import sweep

            command = sweep.command_line(sys.argv[1:])
            sweep.begin(folder, tracking, settings, planned, command)
        _begun = config

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Let go of the configs of a sweep's job: launchers keep what a job returned until the sweep ends."""
        if config.hydra.mode is RunMode.MULTIRUN:
            job_return.cfg = job_return.hydra_cfg = None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of the sweep; exit with 1 if a combination has no result, or the report was not written."""
        end_sweep()


def end_sweep(error: BaseException | None = None) -> None:
    """Report the sweep that this process has begun, if any; exit with 1 unless all of it has succeeded.

    `error` is what ended the sweep, as launchers raise it where a worker was killed.
    """
    global _begun
    if _begun is None:
        return
    config, _begun = _begun, None
    from quantexp.runner import sweep
    from quantexp.runner.running import report_lost, wait_for_jobs

    folder, tracking = Path(config.hydra.sweep.dir), _tracking(config)
    interrupted = isinstance(error, KeyboardInterrupt)
    if error is not None and not interrupted:
        reason = _shortened(str(error)) if isinstance(error, Exception) else "a job called sys.exit"
        log.error("the sweep ended before all of its jobs (%s): %s", type(error).__name__, reason)
    with errors_as_messages():
        if error is not None and not interrupted and not launchers.in_this_process(config.hydra):
            report_lost(folder, tracking, wait_for_jobs(folder))
        succeeded = sweep.sum_up(folder, tracking, interrupted=interrupted)
    if not interrupted and (error is not None or not succeeded):
        raise SystemExit(FAILED)


def _shortened(text: str) -> str:
    """Return the error of a launcher in one line. A long one is cut in the middle: the cause is often at its end."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def job(config: DictConfig) -> float | list[float] | None:
    """Run and record one experiment; in a sweep, record its failure too and return what its sweeper improves."""
    openmp.share_cores()  # in a worker on another host, nothing is inherited
    hydra = HydraConfig.get()
    overrides = [without_password(as_typed(text)) for text in typed(hydra.overrides.task)]
    if hydra.mode is RunMode.MULTIRUN:
        with errors_as_messages():
            values = _job_of_sweep(config, overrides)
            with suppress(OSError):
                Path(hydra.runtime.output_dir).rmdir()  # Hydra made it for the job; it stays if something is in it
        return values[0] if values and len(values) == 1 else values
    if not _checked:
        leave(NOT_CHECKED, BAD_VALUES)
    with errors_as_messages():
        _work_in(hydra.runtime.cwd)
        from quantexp.runner.job import run_checked

        run_checked(to_experiment(config), _request(config, overrides))
    return None


def _job_of_sweep(config: DictConfig, overrides: Sequence[str]) -> list[float] | None:
    """Run a job and leave its outcome; return the values of the sweep's objectives, also if an equal job has them."""
    from quantexp.runner.isolated import perform_isolated
    from quantexp.runner.job import failure, perform
    from quantexp.runner.objective import objectives_of
    from quantexp.runner.sweep import leave_outcome

    hydra = HydraConfig.get()
    folder, asked = Path(hydra.sweep.dir), " ".join(overrides)
    ongoing = Ongoing.read(folder)
    _work_in(ongoing.folder)
    started = JobOutcome(State.running, asked, hydra.job.num)
    digest = f"job-{started.number}"  # until its values are known
    try:
        with interrupt.guard():
            experiment = to_experiment(config)
            digest = values_digest(experiment)
            if not started.claim(folder, digest):
                if read_outcomes(folder)[digest].number == started.number:
                    log.warning("not run again, as its process was killed before: %s", asked)
                return objectives_of(ongoing, experiment)
            log.info("\nrun %s     %s", begun(folder), asked)
            if different := varied(ongoing.fixed, experiment):
                raise ConfigError(different)
            request = _request(config, overrides, parent=ongoing.parent)
            if launchers.in_this_process(hydra):
                outcome = perform(started, experiment, request, folder)
            else:
                outcome = perform_isolated(started, experiment, request, folder, digest)
    except Exception as error:  # one failed run must not end the others
        if ongoing.skips and isinstance(error, ConfigError) and error.mismatches:
            return None
        outcome = failure(started, error)
    leave_outcome(folder, _tracking(config), digest, outcome)
    return outcome.objectives


def _work_in(folder: str) -> None:
    """Go back to the folder in which the command was typed: relative paths and the user's classes are found there."""
    if Path(folder).is_dir():  # not on another host
        os.chdir(folder)
    own_code.add_folder(folder)


@contextmanager
def _checking(config: DictConfig) -> Iterator[None]:
    """End the process if anything goes wrong before the first run: with 2 for bad values, 1 for anything else."""
    before = HydraConfig.instance().cfg
    with errors_as_messages():
        try:
            if faults := list(misread(config)):
                leave("\n".join(faults), BAD_VALUES)
            yield
        except ConfigError as error:
            leave(str(error), BAD_VALUES)
        except (HydraException, OmegaConfBaseException, OSError) as error:
            leave(explain(error), BAD_VALUES)
        finally:
            HydraConfig.instance().cfg = before


def _fix_folder(config: DictConfig, folder: Path) -> None:
    """Give the sweep and all its jobs one absolute directory; jobs are composed again from the overrides."""
    from hydra.core.override_parser.types import Quote, QuotedString

    config.hydra.sweep.dir = str(folder)
    text = QuotedString(str(folder), Quote.single).with_quotes()
    config.hydra.overrides.hydra.append(f"hydra.sweep.dir={text}")


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
    from quantexp.runner.tracked import Request

    hydra = HydraConfig.get()
    choices = {str(group): str(value) for group, value in hydra.runtime.choices.items()}
    return Request(choices, overrides, yaml_text(config, overrides), parent)


def _tracking(config: DictConfig) -> Tracking:
    tracking: Any = OmegaConf.to_object(config.tracking)
    return cast(Tracking, tracking)


def _folder(config: DictConfig) -> Path:
    """Return the directory of the sweep. Raises ConfigError if only a job knows it."""
    try:
        return Path(config.hydra.sweep.dir).absolute()
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"hydra.sweep.dir must be known when the sweep starts, as its report is written there ({reason}); "
            "what differs between jobs goes in hydra.sweep.subdir"
        ) from error

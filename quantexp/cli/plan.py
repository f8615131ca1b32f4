"""Which combinations of a sweep are run: all are checked before the first run, without torch.

A sweep with a wrong value is refused. A sweep with a combination that is not supported, such as a flow that its method
lacks, is refused too, unless the sweep skips it. Equal combinations are run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from quantexp.cli.compose import BAD_VALUES, Combination, explain, to_experiment
from quantexp.config import Experiment
from quantexp.results.sweep import UnsupportedEntry
from quantexp.runner.checks import check_inputs
from quantexp.runner.jobs import Plan
from quantexp.runner.labels import distinguishing, settings
from quantexp.system.errors import ConfigError, Mismatch, QuantexpError
from quantexp.system.terminal import leave

HOW_TO_SKIP = "To skip what is not supported and run the rest: sweep.unsupported=skip"

Kept = tuple[Combination, Experiment]


def plan(jobs: Sequence[Combination], *, skip_unsupported: bool = False) -> Plan:
    """Return what is run. If there is any fault, exits with every fault of every combination, each once.

    The settings are checked first; if they are right, then whether data and weights are there.
    """
    faults: dict[str, list[str]] = {}
    mismatches: dict[str, list[str]] = {}
    kept: dict[str, Kept] = {}  # by all their values
    left_out: list[int] = []
    unsupported: list[UnsupportedEntry] = []
    for number, job in enumerate(jobs):
        try:
            experiment = to_experiment(job.config)
            if kept.setdefault(repr(experiment.filled(sweep=None)), (job, experiment))[0] is not job:
                left_out.append(number)
        except ConfigError as error:
            if skip_unsupported and error.mismatches:
                left_out.append(number)
                unsupported.append(_unsupported(job, error.mismatches))
            for fault in error.faults:
                (mismatches if isinstance(fault, Mismatch) else faults).setdefault(fault, job.overrides)
        except Exception as error:  # of OmegaConf: a missing value, an interpolation that fails
            faults.setdefault(explain(error), job.overrides)
    if skip_unsupported and (kept or faults):
        mismatches = {}
    _refuse({**faults, **mismatches} or _lacking(kept.values()), HOW_TO_SKIP if kept and mismatches else "")
    return Plan(len(kept), tuple(left_out), tuple(unsupported))


def _unsupported(job: Combination, mismatches: Iterable[Mismatch]) -> UnsupportedEntry:
    reason = "; ".join(fault.rule for fault in mismatches)
    return UnsupportedEntry(tuple(distinguishing(job.overrides)), settings(job.config, job.choices), reason)


def _lacking(kept: Iterable[Kept]) -> dict[str, list[str]]:
    """Return the data and weights that are missing, with the overrides that need them; each place is checked once."""
    places: dict[str, Kept] = {}
    for job, experiment in kept:
        request = replace(experiment.data_request, seed=0, validation_seed=0)
        needed = experiment.study.needs_data
        place = (needed, experiment.task.name, request, experiment.model, experiment.train.checkpoint)
        places.setdefault(str(place), (job, experiment))
    faults: dict[str, list[str]] = {}
    for job, experiment in places.values():
        try:
            check_inputs(experiment)
        except QuantexpError as error:
            faults.setdefault(str(error), job.overrides)
    return faults


def _refuse(faults: dict[str, list[str]], hint: str) -> None:
    if faults:
        lines = [f"{fault}  (in {' '.join(where)})" if where else fault for fault, where in faults.items()]
        leave("\n".join([*lines, *([hint] if hint else [])]), BAD_VALUES)

"""Which combinations of a sweep are run: every one is checked before the first job, without torch.

A wrong value refuses the sweep, whatever else it holds. A combination that does not exist, such as a flow that its
method lacks, refuses it too unless the sweep shall skip it. What is asked for twice is run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from quantexp.cli.compose import BAD_VALUES, Combination, explain, to_experiment
from quantexp.config import Experiment
from quantexp.results.sweep import UnsupportedEntry
from quantexp.runner.checks import check_inputs
from quantexp.runner.jobs import Plan
from quantexp.runner.labels import settings, telling
from quantexp.system.errors import ConfigError, Mismatch, QuantexpError
from quantexp.system.terminal import leave

HOW_TO_SKIP = "To leave out what does not exist and run the rest: sweep.unsupported=skip"

Kept = tuple[Combination, Experiment]


def plan(jobs: Sequence[Combination], *, skip_unsupported: bool = False) -> Plan:
    """Return what is to be run. Exits, naming every fault of every combination once, if there is any.

    First what was asked for; then, if that can be run, whether the data and weights to read are there.
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
        except Exception as error:  # OmegaConf's own complaints: a value that is missing, an interpolation that fails
            faults.setdefault(explain(error), job.overrides)
    if skip_unsupported and (kept or faults):
        mismatches = {}
    _refuse({**faults, **mismatches} or _lacking(kept.values()), HOW_TO_SKIP if kept and mismatches else "")
    return Plan(len(kept), tuple(left_out), tuple(unsupported))


def _unsupported(job: Combination, mismatches: Iterable[Mismatch]) -> UnsupportedEntry:
    reason = "; ".join(fault.rule for fault in mismatches)
    return UnsupportedEntry(tuple(telling(job.overrides)), settings(job.config, job.choices), reason)


def _lacking(kept: Iterable[Kept]) -> dict[str, list[str]]:
    """Return what is to be read and is not there, with the overrides that ask for it; each place is looked at once."""
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

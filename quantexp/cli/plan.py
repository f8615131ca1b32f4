"""Which combinations of a sweep are run: all are checked before the first run, without torch.

A sweep with a wrong value is refused. A sweep with a combination that is not supported, such as a flow that its method
lacks, is refused too, unless the sweep skips it. Equal combinations are run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from quantexp.cli.compose import BAD_VALUES, Combination, as_typed, explain, to_experiment
from quantexp.config import Experiment
from quantexp.runner.jobs import Plan, values_digest, varied
from quantexp.runner.labels import distinguishing, settings
from quantexp.system.errors import ConfigError, Mismatch, QuantexpError
from quantexp.system.passwords import without_password
from quantexp.system.terminal import leave

if TYPE_CHECKING:
    from quantexp.results.sweep import UnsupportedEntry

HOW_TO_SKIP = "To skip what is not supported and run the rest: sweep.unsupported=skip"

Kept = tuple[Combination, Experiment]


def plan(
    jobs: Iterable[Combination], *, skip_unsupported: bool = False, fixed: Mapping[str, str] | None = None
) -> Plan:
    """Return what is run. If there is any fault, exits with every fault of every combination, each once.

    The settings are checked first; if they are right, then whether data and weights are there.

    Args:
        jobs: Each combination; its config is read before the next one is taken.
        skip_unsupported: Whether combinations that are not supported are left out.
        fixed: The settings that must be the same in all jobs of a sweep.
    """
    faults: dict[str, list[str]] = {}
    mismatches: dict[str, list[str]] = {}
    kept: dict[str, Kept] = {}  # by the digest of all their values
    equal = 0
    unsupported: list[UnsupportedEntry] = []
    for job in jobs:
        try:
            experiment = to_experiment(job.config)
            if fault := varied(fixed, experiment) if fixed else None:
                faults.setdefault(fault, job.overrides)
            equal += kept.setdefault(values_digest(experiment), (job, experiment))[0] is not job
        except ConfigError as error:
            if skip_unsupported and error.mismatches:
                unsupported.append(_unsupported(job, error.mismatches))
            for fault in error.faults:
                (mismatches if isinstance(fault, Mismatch) else faults).setdefault(fault, job.overrides)
        except Exception as error:  # of OmegaConf: a missing value, an interpolation that fails
            faults.setdefault(explain(error), job.overrides)
    if skip_unsupported and (kept or faults):
        mismatches = {}
    _refuse({**faults, **mismatches} or _lacking(kept.values()), HOW_TO_SKIP if kept and mismatches else "")
    kept_in = dict.fromkeys(experiment.tracking.keep_in for _, experiment in kept.values())
    combinations = {digest: _joined(job.overrides) for digest, (job, _) in kept.items()}
    return Plan(combinations, equal, tuple(unsupported), tuple(kept_in))


def _joined(overrides: Iterable[str]) -> str:
    return " ".join(without_password(as_typed(text)) for text in overrides)


def _unsupported(job: Combination, mismatches: Iterable[Mismatch]) -> UnsupportedEntry:
    from quantexp.results.sweep import UnsupportedEntry

    reason = "; ".join(fault.rule for fault in mismatches)
    return UnsupportedEntry(tuple(distinguishing(job.overrides)), settings(job.config, job.choices), reason)


def _lacking(kept: Iterable[Kept]) -> dict[str, list[str]]:
    """Return the data and weights that are missing, with the overrides that need them; each place is checked once."""
    from quantexp.runner.checks import check_inputs  # not needed where a value is wrong

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
        except OSError as error:  # a path that is too long, or in a folder without permission
            faults.setdefault(f"{error.filename} cannot be read ({error.strerror}); give another path", job.overrides)
    return faults


def _refuse(faults: dict[str, list[str]], hint: str) -> None:
    if faults:
        lines = [f"{fault}  (in {_joined(where)})" if where else fault for fault, where in faults.items()]
        leave("\n".join([*lines, *([hint] if hint else [])]), BAD_VALUES)

"""Repeat a recorded run, and compare the result with the original.

First the records are compared with each other and with this machine: configuration, data, versions. Changed records or
data are an error; another machine or other versions are reported. Then everything is trained again, in a new cache: the
usual cache would return the same weights, which would show nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quantexp import tasks
from quantexp.config import GROUPS, NOTHING, RESULT, WEIGHTS, DataSource, Experiment, affects
from quantexp.runner.identity import configuration, identity_of
from quantexp.runner.labels import parameters
from quantexp.system.errors import TrackingError
from quantexp.system.terminal import show
from quantexp.system.version import __version__
from quantexp.tracking.names import REPRODUCES, as_text

if TYPE_CHECKING:
    from quantexp.config import Tracking
    from quantexp.results import Report
    from quantexp.results.identity import Identity
    from quantexp.runner.finished import FinishedRun


def reproduce(run_id: str, tracking: Tracking, *, data_dir: str | None = None, trust: bool = False) -> bool:
    """Repeat a run, print both side by side, and return whether they agree.

    Args:
        run_id: The id of a finished run.
        tracking: Its store; the new run is recorded there too, if the store is writable.
        data_dir: Folder of the data, if they were moved since.
        trust: Whether the user's own network and task, which the store names, may be imported.

    Raises:
        QuantexpError: TrackingError if the run cannot be read, or its records or data were changed; errors of a run.
    """
    from quantexp.reports.repeat import side_by_side
    from quantexp.runner.finished import read_finished_run
    from quantexp.tracking.store import read_store

    with read_store(str(tracking.uri), tracking.experiment) as store:
        first = read_finished_run(store, run_id)
    if first.without_model:
        show("the original run was recorded without its network, and so is this one (tracking.store_model=false)")
        tracking = replace(tracking, store_model=False)
    experiment = replace(restore(first, trust), tracking=tracking)
    with tempfile.TemporaryDirectory(prefix="quantexp-") as cache:
        experiment = replace(experiment, data_dir=_data_dir(experiment, data_dir), cache_dir=cache)
        other = list(_differences(first.identity, experiment))
        for line in other:
            show(f"changed since the original run: {line}")
        report = _run_again(experiment, first)
    table, same = side_by_side(first.report, report, elsewhere=bool(other))
    show(table.rich())
    return same


def _run_again(experiment: Experiment, first: FinishedRun) -> Report:
    """Run the experiment and, if the store is writable, record it as a repetition of the first run."""
    from quantexp.runner.single import run, run_single
    from quantexp.runner.tracked import Request
    from quantexp.tracking.store import open_store

    try:
        open_store(experiment.tracking)
    except TrackingError as error:
        show(f"the new run is not recorded: {error}")
        return run(experiment).report
    choices = {name: first.parameters[name] for name in (*GROUPS, "experiment") if name in first.parameters}
    tags = {REPRODUCES: first.run_id}
    request = Request(choices, [f"reproduces={first.run_id[:8]}"], first.config_yaml, tags=tags)
    return run_single(experiment, request).report


def restore(run: FinishedRun, trust: bool = False) -> Experiment:
    """Return the experiment that a record describes.

    Raises:
        TrackingError: If its configuration, its parameters and its identity disagree.
    """
    try:
        experiment = _composed(run, trust)
    except TrackingError:
        raise
    except Exception as error:  # of damaged text, any error
        raise TrackingError(f"the configuration of run {run.run_id} cannot be composed ({error})") from error
    expected, found = _flat(run.identity.configuration), _flat(configuration(experiment))
    recorded, now = run.parameters, parameters(experiment, run.parameters)
    if run.identity.versions.get("quantexp") != __version__:  # other versions have other settings
        expected, found = _shared(expected, found)
        recorded, now = _shared(recorded, now)
    faults = [
        *run.disagreements,
        *_compared("config.yaml", found, expected),
        *_compared("the parameter", _relevant(recorded), _relevant({k: as_text(v) for k, v in now.items()})),
    ]
    if faults:
        raise TrackingError(
            "\n".join([f"the records of run {run.run_id} were changed after it was recorded:", *faults])
        )
    return experiment


def _composed(run: FinishedRun, trust: bool) -> Experiment:
    """Build the experiment of `config.yaml`, with the options that the identity names."""
    from omegaconf import OmegaConf

    from quantexp.config import OPTIONS, CustomModel, CustomTask, Option
    from quantexp.models.custom import is_ours

    values: Any = OmegaConf.to_container(OmegaConf.create(run.config_yaml))  # interpolations stay as they are
    classes: dict[tuple[str, str], type[Option]] = {(option.group, option.name): option for option in OPTIONS}
    parts: dict[str, Any] = {name: values[name] for name in _plain_settings() if name in values}
    for group in GROUPS:
        if (described := run.identity.configuration.get(group)) and group != "study":
            option = classes[group, described["name"]]
            known = {name: value for name, value in values[group].items() if name in option.__dataclass_fields__}
            parts[group] = option(**known)
    for own in (parts["model"], parts["task"]):
        if isinstance(own, CustomModel | CustomTask) and not (trust or is_ours(own.target)):
            raise TrackingError(
                f"run {run.run_id} names {own.target!r} as its {own.group}, whose code would be run; "
                "if you trust it, use --trust"
            )
    return Experiment(**parts)


def _plain_settings() -> list[str]:
    """Return the settings of an experiment that are not options."""
    return list(Experiment().settings(WEIGHTS, RESULT, NOTHING))


def _data_dir(experiment: Experiment, given: str | None) -> str | None:
    """Return the folder of the data: as given, as recorded, or in the cache."""
    if given or experiment.data_dir or experiment.data is not DataSource.full:
        return given or experiment.data_dir
    located = tasks.sources_of(experiment.task).locate(experiment.data_request)
    return str(located[0].parent) if located else None


def _differences(then: Identity, experiment: Experiment) -> Iterator[str]:
    """Yield what changed in machine and versions. Raises TrackingError if the data changed."""
    from quantexp.mission import load

    now = identity_of(experiment, load(experiment).fingerprint)
    if now.data_fingerprint != then.data_fingerprint:
        raise TrackingError(
            f"the run used data with fingerprint {then.data_fingerprint[:16]}, the data now have "
            f"{now.data_fingerprint[:16]}; restore the same files, or name their folder with --data-dir"
        )
    for what in ("versions", "threads"):
        old, new = getattr(then, what), getattr(now, what)
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                yield f"{what}: {name} was {old.get(name)}, is {new.get(name)}"
    for what in ("host", "cpu"):
        if getattr(then, what) != getattr(now, what):
            yield f"{what}: was {getattr(then, what)}, is {getattr(now, what)}"


def _compared(where: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            yield f"{where} {name} says {found.get(name)!r}, the identity {expected.get(name)!r}"


def _relevant(settings: Mapping[str, str]) -> dict[str, str]:
    """Leave out the settings that affect no result."""
    return {name: text for name, text in settings.items() if name == "experiment" or affects(name) is not NOTHING}


def _shared(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both, only with the names that both have."""
    names = first.keys() & second.keys()
    return {name: first[name] for name in names}, {name: second[name] for name in names}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat

"""A recorded run made again, and compared with the first one.

First its records are compared with each other and with this machine: configuration, data, versions. If the records
or the data were changed since, that is an error; another machine or other versions are reported, and it goes on. Then
everything is trained anew, in a cache of its own: the usual cache would give the same weights back and prove nothing.
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
    """Make a run again, print both side by side, and tell whether they are the same.

    Args:
        run_id: The id of a finished run.
        tracking: Where it is recorded; the new run is recorded there too, if the store can be written.
        data_dir: Where the data lie now, if not where they lay then.
        trust: Whether a class of the network that the store names, and that is not quantexp's own, may be built.

    Raises:
        QuantexpError: TrackingError if the run cannot be read or its records disagree, DataError if the data
            are not those of then, and whatever a run raises.
    """
    from quantexp.reports.repeat import side_by_side
    from quantexp.runner.finished import read_finished_run
    from quantexp.tracking.store import read_store

    with read_store(str(tracking.uri), tracking.experiment) as store:
        first = read_finished_run(store, run_id)
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
    """Run and, where the store can be written, record the run as a repetition of the first."""
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
        TrackingError: If its configuration, its parameters and its identity do not say the same.
    """
    try:
        experiment = _composed(run, trust)
    except TrackingError:
        raise
    except Exception as error:  # damaged text makes its readers raise whatever they stumble over
        raise TrackingError(f"the configuration of run {run.run_id} cannot be composed ({error})") from error
    expected, found = _flat(run.identity.configuration), _flat(configuration(experiment))
    recorded, now = run.parameters, parameters(experiment, run.parameters)
    if run.identity.versions.get("quantexp") != __version__:  # settings come and go
        expected, found = _shared(expected, found)
        recorded, now = _shared(recorded, now)
    faults = [
        *run.disagreements,
        *_compared("config.yaml", found, expected),
        *_compared("the parameter", _that_count(recorded), _that_count({k: as_text(v) for k, v in now.items()})),
    ]
    if faults:
        raise TrackingError("\n".join([f"the records of run {run.run_id} were changed since it was made:", *faults]))
    return experiment


def _composed(run: FinishedRun, trust: bool) -> Experiment:
    """Build the experiment that `config.yaml` describes, of the classes that the identity names."""
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
                f"run {run.run_id} names {own.target!r} as its {own.group}, whose code would run; "
                "if you know where it comes from, use --trust"
            )
    return Experiment(**parts)


def _plain_settings() -> list[str]:
    """Return the settings of an experiment that are no options."""
    return list(Experiment().settings(WEIGHTS, RESULT, NOTHING))


def _data_dir(experiment: Experiment, given: str | None) -> str | None:
    """Return where the data lie: as given, as recorded, or in the cache that was used."""
    if given or experiment.data_dir or experiment.data is not DataSource.full:
        return given or experiment.data_dir
    located = tasks.sources_of(experiment.task).locate(experiment.data_request)
    return str(located[0].parent) if located else None


def _differences(then: Identity, experiment: Experiment) -> Iterator[str]:
    """Yield what about machine and versions is not as then. Raises TrackingError if the data are not."""
    from quantexp.mission import load

    now = identity_of(experiment, load(experiment).fingerprint)
    if now.data_fingerprint != then.data_fingerprint:
        raise TrackingError(
            f"the run was made on data with fingerprint {then.data_fingerprint[:16]}, those of now have "
            f"{now.data_fingerprint[:16]}; bring the same files back, or name their folder with --data-dir"
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


def _that_count(settings: Mapping[str, str]) -> dict[str, str]:
    """Leave out the settings that affect nothing: where things lie, and where the run is recorded."""
    return {name: text for name, text in settings.items() if name == "experiment" or affects(name) is not NOTHING}


def _shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both without the names that only one of them has."""
    names = one.keys() & other.keys()
    return {name: one[name] for name in names}, {name: other[name] for name in names}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat

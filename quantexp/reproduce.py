"""Make a recorded run again, and hold the two against each other: `python -m quantexp.reproduce RUN_ID`.

First its records are held against each other and against this machine: configuration, data, versions. What was
changed since ends it, with words; another machine or other versions are told, and it goes on. Then everything is
trained anew, in a cache of its own: from the usual cache the same weights would come back and prove nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quantexp.runner.identity import GROUPS as CONFIGURED
from quantexp.runner.identity import VALUES
from quantexp.runner.labels import GROUPS, parameters
from quantexp.system import interrupt, openmp
from quantexp.system.errors import QuantexpError, TrackingError
from quantexp.system.terminal import leave, show
from quantexp.tracking.names import as_text

if TYPE_CHECKING:
    from quantexp.config import Experiment, Tracking
    from quantexp.runner.identity import Identity
    from quantexp.runner.records import Record

FAILED = 1  # exit status: it cannot be made again, or what came out is not the same
INTERRUPTED = 130
ELSEWHERE = ("data_dir", "cache_dir")  # where things lie may differ


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with 0 if the run was reproduced, 1 if it was not or cannot be, 130 if interrupted."""
    asked = _parser().parse_args(arguments)
    from quantexp.config import Local, Server

    openmp.share_cores()
    interrupt.listen()
    try:
        with interrupt.kept():
            uri = asked.tracking_uri
            tracking = Server(uri=uri, experiment=asked.experiment) if uri else Local(experiment=asked.experiment)
            if not reproduce(asked.run, tracking, data_dir=asked.data_dir, trust=asked.trust):
                sys.exit(FAILED)
    except QuantexpError as error:
        leave(str(error), FAILED)
    except KeyboardInterrupt:
        leave("interrupted", INTERRUPTED)


def reproduce(run_id: str, tracking: Tracking, *, data_dir: str | None = None, trust: bool = False) -> bool:
    """Make a run again, print both side by side, and tell whether they are the same.

    Args:
        run_id: The id of a finished run.
        tracking: Where it is recorded; the new run is recorded there too.
        data_dir: Where the data lie now, if not where they lay then.
        trust: Whether a class of the network that the store names, and that is not quantexp's own, may be built.

    Raises:
        QuantexpError: TrackingError if the run cannot be read or its records disagree, DataError if the data
            are not those of then, and whatever a run raises.
    """
    from quantexp.reports.repeat import side_by_side
    from quantexp.runner.records import read_record
    from quantexp.runner.single import Request, perform
    from quantexp.tracking.names import REPRODUCES
    from quantexp.tracking.store import open_store

    record = read_record(open_store(tracking, must_exist=True), run_id)
    experiment = replace(restore(record, trust), tracking=tracking)
    with tempfile.TemporaryDirectory(prefix="quantexp-") as cache:
        experiment = replace(experiment, data_dir=_data_dir(experiment, data_dir), cache_dir=cache)
        other = list(_differences(record.identity, experiment))
        for line in other:
            show(f"not as then: {line}")
        choices = {name: record.parameters[name] for name in (*GROUPS, "experiment") if name in record.parameters}
        request = Request(choices, [f"reproduces={run_id[:8]}"], record.config_yaml, tags={REPRODUCES: run_id})
        report = perform(experiment, request).report
    table, same = side_by_side(record.report, report, elsewhere=bool(other))
    show(table.rich())
    return same


def restore(record: Record, trust: bool = False) -> Experiment:
    """Return the experiment that a record describes.

    Raises:
        TrackingError: If its configuration, its parameters and its identity do not say the same.
    """
    from quantexp.runner.identity import configuration

    try:
        experiment = _composed(record, trust)
    except TrackingError:
        raise
    except Exception as error:  # damaged text makes its readers raise whatever they stumble over
        raise TrackingError(f"the configuration of run {record.run_id} cannot be composed ({error})") from error
    faults = [
        *record.disagreements,
        *_compared("config.yaml", _flat(configuration(experiment)), _flat(record.identity.configuration)),
        *_compared("the parameter", _telling(record.parameters), _telling(_as_recorded(experiment, record))),
    ]
    if faults:
        raise TrackingError("\n".join([f"the records of run {record.run_id} were changed since it was made:", *faults]))
    return experiment


def _composed(record: Record, trust: bool) -> Experiment:
    """Build the experiment that `config.yaml` describes, of the classes that the identity names."""
    from omegaconf import OmegaConf

    from quantexp.cli.schemas import OPTIONS
    from quantexp.config import Custom, Experiment, Option
    from quantexp.models.custom import is_ours

    values: Any = OmegaConf.to_container(OmegaConf.create(record.config_yaml))  # interpolations stay as they are
    classes: dict[tuple[str, str], type[Option]] = {(option.group, option.name): option for option in OPTIONS}
    parts: dict[str, Any] = {name: values[name] for name in (*VALUES, *ELSEWHERE)}
    for group in CONFIGURED:
        parts[group] = classes[group, record.identity.configuration[group]["name"]](**values[group])
    model = parts["model"]
    if isinstance(model, Custom) and not (trust or is_ours(model.target)):
        raise TrackingError(
            f"run {record.run_id} names the network {model.target!r}, whose code would run; "
            "if you know where it comes from, use --trust"
        )
    return Experiment(**parts)


def _data_dir(experiment: Experiment, asked: str | None) -> str | None:
    """Return where the data lie: as asked, as then, or in the cache of then, which another one takes the place of."""
    from quantexp.config import Source

    if asked or experiment.data is Source.sample or experiment.data_dir:
        return asked or experiment.data_dir
    return str(experiment.task.files.locate(experiment.data_request)[0].parent)


def _differences(then: Identity, experiment: Experiment) -> Iterator[str]:
    """Yield what about machine and versions is not as then. Raises TrackingError if the data are not."""
    from quantexp.runner.identity import Identity

    now = Identity.of(experiment, experiment.load().fingerprint)
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


def _as_recorded(experiment: Experiment, record: Record) -> dict[str, str]:
    return {name: as_text(value) for name, value in parameters(experiment, record.parameters).items()}


def _telling(settings: Mapping[str, str]) -> dict[str, str]:
    """Leave out where things lie and where the run is recorded."""
    return {name: text for name, text in settings.items() if name.split(".")[0] not in (*ELSEWHERE, "tracking")}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp.reproduce",
        description="Make a recorded run again, from training on, and print both side by side with a verdict.",
    )
    parser.add_argument("run", metavar="RUN_ID", help="the id of a finished run")
    parser.add_argument("--tracking-uri", metavar="URI", help="where it is recorded; default ./mlflow.db")
    parser.add_argument("--experiment", default="quantexp", metavar="NAME", help="its MLflow experiment")
    parser.add_argument("--data-dir", metavar="FOLDER", help="where the data lie now, if not where they lay then")
    parser.add_argument(
        "--trust", action="store_true", help="build a network whose class the store names and that is not quantexp's"
    )
    return parser


if __name__ == "__main__":
    main()

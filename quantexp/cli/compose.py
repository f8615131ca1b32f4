"""From Hydra's config to an experiment: every combination is checked, every fault has a message.

Hydra's config is used up to `to_experiment`; nothing after it knows of Hydra.
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from quantexp.config import Experiment
from quantexp.config.experiment import checked
from quantexp.system.errors import ConfigError
from quantexp.system.terminal import leave

if TYPE_CHECKING:
    from hydra.core.override_parser.types import IntervalSweep, Override

BAD_VALUES = 2  # exit status
MOST_SAMPLES = 256  # jobs that are checked before a search
AMBIGUOUS = "Ambiguous value for argument "
NOISE = ("object_type=", "reference_type=", "Config search path", "provider=", "See https", "Set hydra.verbose")


@dataclass(frozen=True)
class Combination:
    """A job of a sweep: its overrides, the config that they compose to, and the chosen names by group."""

    overrides: list[str]
    config: DictConfig
    choices: dict[str, str]


def to_experiment(config: DictConfig) -> Experiment:
    """Return the experiment that a composed config describes. Raises ConfigError with every fault."""
    if OmegaConf.get_type(config) is not Experiment:
        return checked(OmegaConf.to_container(config))
    groups = [str(name) for name in config if name != "hydra" and isinstance(config._get_node(name), DictConfig)]
    values: dict[str, Any] = {}
    faults: list[str] = []
    for group in groups:
        try:
            values[group] = OmegaConf.to_object(config[group])
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)
    for name in (str(name) for name in config if name != "hydra" and name not in groups):
        value = config[name]
        values[name] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    declared = {name: value for name, value in values.items() if name in Experiment.__dataclass_fields__}
    experiment = Experiment(**declared)
    for name, value in values.items():
        if name not in declared:  # added with +
            setattr(experiment, name, value)
    return checked(experiment)


def choices_of(config: DictConfig) -> dict[str, str]:
    """Return the chosen names by group, as Hydra has them."""
    return {str(group): str(value) for group, value in config.hydra.runtime.choices.items()}


def typed(overrides: ListConfig | list[str]) -> list[str]:
    """Return overrides as they were typed: reading the items would resolve `${...}` in them."""
    return [str(text) for text in cast("list[Any]", OmegaConf.to_container(overrides, resolve=False))]


def as_typed(override: str) -> str:
    """Return an override of a job as it was typed: sweepers write `${seed}` as `$\\{seed\\}`."""
    return re.sub(r"\\([{}()\[\]:=, ])", r"\1", override) if "$\\{" in override else override


def as_in_job(config: DictConfig, number: int | None = None) -> None:
    """Let `${hydra:...}` in values give what it gives in a run, or in the job `number` of a sweep."""
    hydra = config.hydra
    with read_write(hydra), open_dict(hydra):
        if number is not None:
            hydra.job.num, hydra.job.id = number, str(number)
        with suppress(OmegaConfBaseException):  # it is known in the job only
            places = [hydra.run.dir] if number is None else [hydra.sweep.dir, hydra.sweep.subdir]
            hydra.runtime.output_dir = str(Path(*map(str, places)).absolute())
    HydraConfig.instance().cfg = cast(Any, config)  # not by `set_config`, which makes a copy


def misread(config: DictConfig) -> Iterator[str]:
    """Yield the names that were typed in a way that Hydra reads as another text: 1e5 is 100000.0, 2024_01 is 202401."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(typed(config.hydra.overrides.task)):
        key, text = override.key_or_group, str(override.input_line).partition("=")[2].strip()
        value = None if override.is_sweep_override() or override.is_delete() else override.value()
        read = OmegaConf.select(config, key, throw_on_resolution_failure=False, throw_on_missing=False)
        if isinstance(value, int | float) and isinstance(read, str) and read != text:
            yield f"{key}={text} is read as the number {value}, and {key} is a text; quote it: {_quoted(key, text)}"


def swept_settings(config: DictConfig) -> Iterator[str]:
    """Yield a fault for each setting with several values that all jobs of a sweep must share."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(asked_of_sweeper(config)):
        group = override.key_or_group.replace("/", ".").partition(".")[0]
        if group in ("sweep", "tracking", "hydra") and override.is_sweep_override():
            yield (
                f"{override.key_or_group} must be the same in all jobs of a sweep, as one place has its report and "
                f"its runs; got {override.input_line}. Start a sweep for each"
            )


def asked_of_sweeper(config: DictConfig) -> list[str]:
    """Return the overrides that a sweeper combines: those of the settings, then those that were typed."""
    params = config.hydra.sweeper.get("params") or {}
    return [*(f"{key}={value}" for key, value in params.items()), *typed(config.hydra.overrides.task)]


def _quoted(key: str, text: str) -> str:
    """Return an override with its value in quotes, as it is typed in a shell."""
    return shlex.quote(f'{key}="{text}"')


def combinations(config: DictConfig) -> Iterator[Combination]:
    """Yield the jobs of a sweep as Hydra's basic sweeper creates them; values are read before the next is taken.

    Of a sweeper that chooses the jobs while it runs, jobs that it may choose. It may leave out what does not compose,
    so that is an error only if nothing composes.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from quantexp.cli.loader import Loader

    searches = not chosen_beforehand(config)
    faults: list[str] | None = []  # until something composes
    loader = Loader.of(GlobalHydra.instance().config_loader())
    parsed = OverridesParser.create(loader).parse_overrides(asked_of_sweeper(config))  # the loader resolves globs
    jobs = _samples(parsed) if searches else iter(BasicSweeper.split_arguments(parsed, None)[0])
    for number, overrides in enumerate(itertools.islice(jobs, MOST_SAMPLES) if searches else jobs):
        try:
            job = loader.load_sweep_config(config, overrides)  # as launchers do
            as_in_job(job, number)
        except Exception as error:
            fault = f"{explain(error)}  (in {' '.join(overrides)})"
            if not searches:
                leave(fault, BAD_VALUES)
            if faults is not None:
                faults.append(fault)
            continue
        faults = None
        yield Combination(overrides, job, choices_of(job))
    if faults:
        leave(faults[0], BAD_VALUES)


def _samples(parsed: Sequence[Override]) -> Iterator[list[str]]:
    """Yield the products of all values that are listed, and of both ends of intervals."""
    lists = []
    for override in parsed:
        key = override.get_key_element()
        if override.is_interval_sweep():
            value = cast("IntervalSweep", override.value())
            values = [str(value.start), str(value.end)]
        elif override.is_sweep_override():
            values = list(override.sweep_string_iterator())
        else:
            values = [override.get_value_element_as_str()]
        lists.append([f"{key}={value}" for value in values])
    yield from map(list, itertools.product(*lists))


def chosen_beforehand(config: DictConfig) -> bool:
    """Return whether the jobs of a sweep are known when it starts; other sweepers choose them from results."""
    return str(config.hydra.sweeper._target_).endswith(".BasicSweeper")


def _elsewhere(key: str, known: Sequence[str]) -> str:
    """Say which choice has the setting, for those of the user's own code, or where an argument of it goes."""
    group, _, name = key.partition(".")
    if group in ("model", "task") and name in ("target", "arguments") and name not in known:
        return f". {key} needs {group}=custom"
    if group in ("model", "task") and "arguments" in known:
        return f". An argument of your own code goes in '{group}.arguments={{{name}: VALUE}}'"
    return ""


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def explain(error: Exception) -> str:
    """Return an error of Hydra or OmegaConf as a message that says what is possible."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        known = sorted(str(key) for key in cause.parent_node if key != "hydra")
        possible = f"Possible here: {', '.join(known)}" if known else "There are no settings here"
        hint = _nearest(str(cause.key), known)
        return f"there is no setting {cause.full_key}.{hint} {possible}{_elsewhere(str(cause.full_key), known)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        possible = ", ".join(error.options)
        return f"{group} cannot be {name or 'empty'}.{_nearest(name, error.options)} Possible here: {possible}"
    if isinstance(cause, ValidationError) and "is not a ListConfig" in str(cause):
        return (
            f"{cause.full_key} is a list, got {cause.value!r}; put it in brackets: '{cause.full_key}=[{cause.value}]'"
        )
    if isinstance(error, OverrideParseException):
        key, _, text = error.override.partition("=")
        reason = str(error).splitlines()[0].removesuffix(".")
        return f"{error.override} cannot be read ({reason}); a value with signs such as = ( [ {{ , : needs quotes: " + (
            _quoted(key, text.strip("\"'"))
        )
    if str(error).startswith(AMBIGUOUS):
        argument = str(error).splitlines()[0].removeprefix(AMBIGUOUS).strip("'")
        return (
            f"{argument} are several values; a sweep over them takes -m, as in: -m {argument} "
            "(a setting that takes a list has it in brackets, as in 'batch_size=[1,2]')"
        )
    if str(error).startswith("Config group override must be"):
        return "a config group takes the name of one of its values, as in task=mnist, not a number; see --help"
    if isinstance(error, OSError) and error.filename:
        return (
            f"{error.filename} is not writable ({error.strerror}); Hydra writes the files of a run there: "
            "choose another folder with hydra.run.dir=FOLDER; with -m hydra.sweep.dir=FOLDER or hydra.sweep.subdir=NAME"
        )
    lines = [str(error), *([] if cause is error else [str(cause)])]
    kept = [line for line in "\n".join(lines).splitlines() if line.strip() and not line.strip().startswith(NOISE)]
    return "\n".join([*kept, "`python -m quantexp --help` lists every setting and value"])

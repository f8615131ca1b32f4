"""From Hydra's config to an experiment: every combination is checked, every fault has a message.

Hydra's config is used up to `to_experiment`; nothing after it knows of Hydra.
"""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

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
    config = without_hydra(config)
    faults: list[str] = []
    for group in config:
        try:
            if isinstance(config._get_node(group), DictConfig):
                OmegaConf.to_object(config[group])
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)
    return checked(OmegaConf.to_object(config))


def without_hydra(config: DictConfig) -> DictConfig:
    """Return the config without Hydra's own settings."""
    config = copy.copy(config)
    with open_dict(config):
        config.pop("hydra", None)
    return config


def choices_of(config: DictConfig) -> dict[str, str]:
    """Return the chosen names by group, as Hydra has them."""
    return {str(group): str(value) for group, value in config.hydra.runtime.choices.items()}


def combinations(config: DictConfig) -> Iterator[Combination]:
    """Yield the jobs of a sweep as Hydra's basic sweeper creates them; of another sweeper, jobs that it may create.

    A sweeper that searches may leave out what does not compose, so that is an error only if nothing composes.
    """
    from hydra import compose
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    searches = not config.hydra.sweeper._target_.endswith(".BasicSweeper")
    faults: list[str] | None = []  # until something composes
    asked = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    loader = cast(ConfigLoaderImpl, GlobalHydra.instance().config_loader())  # resolves globs
    parser = OverridesParser.create(loader)
    parsed = parser.parse_overrides([*asked, *config.hydra.overrides.task])
    bases: dict[
        tuple[str, ...], tuple[DictConfig, dict[str, str]]
    ] = {}  # once for each choice of groups: it takes time
    jobs = (
        itertools.islice(_samples(parsed), MOST_SAMPLES) if searches else BasicSweeper.split_arguments(parsed, None)[0]
    )
    for overrides in jobs:
        try:
            values = parser.parse_overrides(overrides)
            is_group = [loader.repository.group_exists(one.key_or_group) for one in values]
            groups = tuple(itertools.compress(overrides, is_group))
            if groups not in bases:
                base = compose(config.hydra.job.config_name, overrides=list(groups), return_hydra_config=True)
                bases[groups] = without_hydra(base), choices_of(base)
            job, choices = copy.deepcopy(bases[groups][0]), bases[groups][1]
            ConfigLoaderImpl._apply_overrides_to_config(
                [one for one, group in zip(values, is_group, strict=True) if not group], job
            )
        except Exception as error:  # in a callback Hydra would turn it into a warning
            fault = f"{explain(error)}  (in {' '.join(overrides)})"
            if not searches:
                leave(fault, BAD_VALUES)
            if faults is not None:
                faults.append(fault)
            continue
        faults = None
        yield Combination(overrides, job, choices)
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
            "choose another folder with hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER with -m"
        )
    lines = [str(error), *([] if cause is error else [str(cause)])]
    kept = [line for line in "\n".join(lines).splitlines() if line.strip() and not line.strip().startswith(NOISE)]
    return "\n".join([*kept, "`python -m quantexp --help` lists every setting and value"])

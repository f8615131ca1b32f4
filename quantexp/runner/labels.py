"""The name of a run in the store, and its configuration as flat parameters and as YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from quantexp.config import GROUPS, NOTHING, CustomModel, DataSource, Experiment, Model, Single, affects, plain
from quantexp.system.passwords import without_password
from quantexp.tracking.names import as_text

IN_THE_NAME = ("task", "quant", "precision", "data", "train.examples", "seed", "study")


def run_name(experiment: Experiment, choices: Mapping[str, str], overrides: Sequence[str]) -> str:
    """Return a name for the run: its study, its axes, then the other overrides."""
    data = [] if experiment.data is DataSource.full else [experiment.data.value]
    data += [] if experiment.train.examples is None else [f"{experiment.train.examples}examples"]
    method = [] if experiment.study.tries else [choices["quant"], str(experiment.precision)]
    axes = [choices["task"], *data, *method] if experiment.study.needs_data else []
    study = [] if isinstance(experiment.study, Single) else [experiment.study.name]
    rest = [text for text in distinguishing(overrides) if text.partition("=")[0] not in IN_THE_NAME]
    return " ".join(["-".join([*study, *axes, f"s{experiment.seed}"]), *rest])


def network_title(model: Model, choice: str) -> str:
    """Return what tables and pictures call a network: the choice, or the name of the class if it is the user's own."""
    if isinstance(model, CustomModel) and choice == model.name:
        return str(model.target).rpartition(".")[2]
    return choice


def distinguishing(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that results depend on, without + and ~ before them and without passwords."""
    asked = (str(without_password(text)).lstrip("+~") for text in overrides)
    return [text for text in asked if affects(text.partition("=")[0]) is not NOTHING]


def parameters(experiment: Experiment, choices: Mapping[str, str]) -> dict[str, Any]:
    """Return the flat configuration: the chosen names by group, every setting by its path.

    A study that needs no data has only its own settings, the seed and the store. A study that varies the layers or the
    method has no `quant`: MLflow's saved view lists the runs with that parameter, which are single runs.
    """
    every = _settings(plain(asdict(experiment)), choices)
    if experiment.study.by_layer or experiment.study.tries:
        every.pop("quant")
    if experiment.study.needs_data:
        return every
    return {name: value for name, value in every.items() if name.partition(".")[0] in ("study", "seed", "tracking")}


def settings(config: DictConfig, choices: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that results depend on, flat as they are recorded, of a config that is not supported."""
    every = _settings(OmegaConf.to_container(_without_hydra(config), resolve=True, enum_to_str=True), choices)
    return {name: as_text(value) for name, value in every.items() if affects(name) is not NOTHING}


def yaml_text(config: DictConfig, overrides: Sequence[str]) -> str:
    """Return the composed configuration as YAML with its command as a comment, without passwords."""
    command = " ".join(["# python -m quantexp", *overrides])
    return str(without_password(f"{command}\n{OmegaConf.to_yaml(_without_hydra(config), resolve=True)}"))


def _without_hydra(config: DictConfig) -> DictConfig:
    """Return the config without Hydra's own settings."""
    return OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])


def _settings(tree: Any, choices: Mapping[str, str]) -> dict[str, Any]:
    values = {
        name: value for name, value in _flat("", tree) if name not in GROUPS and name.partition(".")[0] != "sweep"
    }
    chosen = {group: choices[group] for group in (*GROUPS, "experiment") if choices.get(group, "null") != "null"}
    return {name: without_password(value) for name, value in {**chosen, **values}.items()}


def _flat(prefix: str, tree: Any) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value

"""Register the schemas in Hydra, in the group `schema/`, so that they are not listed among the options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.config import OPTIONS, Experiment

if TYPE_CHECKING:
    from hydra.core.config_store import ConfigStore


def conf_dir() -> Path:
    """Return the folder of committed configs: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parents[1]
    packaged = here / "conf"
    return packaged if packaged.is_dir() else here.parent / "conf"


def register() -> None:
    """Register every schema. Safe to call again."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import MISSING, OmegaConf

    from quantexp.cli.loader import Schema

    store = ConfigStore.instance()
    experiment = OmegaConf.structured(Experiment)
    for group in dict.fromkeys(option.group for option in OPTIONS):
        experiment[group] = MISSING  # an instance of one class could not be overridden by another
    store.store(group="schema", name="experiment", node=experiment)
    for option in OPTIONS:
        schema = Schema(option)
        store.repo["schema"].setdefault(option.group, {})[schema.name] = schema
    _replace_plugins_configs(store)


def _replace_plugins_configs(store: ConfigStore) -> None:
    """Remove the configs of plugins that `conf` has too: Hydra would take them as schemas of ours, and complain."""
    from hydra.core.plugins import Plugins

    Plugins.instance()  # imports the plugins, which store their configs
    for group in ("launcher", "sweeper"):
        stored = store.repo.get("hydra", {}).get(group, {})
        for ours in (conf_dir() / "hydra" / group).glob("*.yaml"):
            stored.pop(ours.name, None)

"""Hydra's loader of configs, which composes each choice of groups once.

Composing takes Hydra tenths of a second, and it composes each job of a sweep twice, to check it and to run it. The jobs
of a sweep differ in few choices of groups and in many values. So the config that a choice composes to is kept, and each
job gets a copy of it with its values. The schema of an option is made when it is used.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigNode
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from quantexp.config import Option


class Loader(ConfigLoaderImpl):
    """Composes what Hydra's loader composes. What it keeps stays in this process."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._repositories: dict[tuple[str | None, ...], CachingConfigRepository] = {}
        self._composed: dict[tuple[str | None, ...], bytes] = {}  # as bytes: a tenth of the time to copy

    @classmethod
    def of(cls, loader: ConfigLoader) -> Loader:
        """Return the loader itself, or one that looks for configs in the same places."""
        return loader if isinstance(loader, cls) else cls(loader.get_search_path())

    def __getstate__(self) -> dict[str, Any]:
        """Return what launchers send to their workers: unpickling runs before Hydra's plugins are there."""
        return {**vars(self), "_repositories": {}, "_composed": {}}

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        self.ensure_main_config_source_available()
        parsed = OverridesParser.create().parse_overrides(overrides)
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        choices, values = self._split(config_name, parsed)
        config = self._chosen(config_name, choices, run_mode)
        self._apply_overrides_to_config(values, config)
        _describe(config, parsed)
        return config

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed = OverridesParser.create().parse_overrides(overrides)
        repository = _Repository(self.config_search_path)
        self._process_config_searchpath(config_name, parsed, repository)
        return parsed, repository

    def _split(self, config_name: str | None, overrides: Sequence[Override]) -> tuple[list[str], list[Override]]:
        """Return the overrides that decide which configs are composed, and those that are values in them."""
        places = [str(one.input_line) for one in overrides if one.get_key_element() == "hydra.searchpath"]
        if (config_name, *places) not in self._repositories:
            _, repository = self._parse_overrides_and_create_caching_repo(config_name, places)
            self._repositories[config_name, *places] = repository
        exists = self._repositories[config_name, *places].group_exists
        fixed = [one for one in overrides if not one.is_sweep_override()]
        chosen = [exists(one.key_or_group) and not isinstance(one.value(), dict) for one in fixed]
        choices = [str(one.input_line) for one, is_choice in zip(fixed, chosen, strict=True) if is_choice]
        return [*places, *choices], [one for one, is_choice in zip(fixed, chosen, strict=True) if not is_choice]

    def _chosen(self, config_name: str | None, choices: list[str], run_mode: RunMode) -> DictConfig:
        """Return a new copy of the config that these choices compose to."""
        key = (config_name, *choices)
        if key not in self._composed:
            compose = super()._load_configuration_impl
            try:
                config = compose(config_name, choices, RunMode.RUN, validate_sweep_overrides=False)
            except ConfigCompositionException as error:
                if run_mode is RunMode.RUN or isinstance(error, MissingConfigException):
                    raise
                return compose(config_name, choices, run_mode, validate_sweep_overrides=False)  # leaves out ??? groups
            self._composed[key] = pickle.dumps(config)
        config = pickle.loads(self._composed[key])
        assert isinstance(config, DictConfig)
        return config


class Schema(ConfigNode):
    """The schema of an option in Hydra's store, made when a config uses it: a run uses a fifth of them."""

    def __init__(self, option: type[Option]) -> None:
        self.name, self.group = f"{option.name}.yaml", f"schema/{option.group}"
        self.package = self.provider = None
        self._option = option

    @cached_property
    def node(self) -> DictConfig:  # type: ignore[override]
        """The schema as Hydra takes it."""
        made: DictConfig = OmegaConf.structured(self._option)
        return made


class _Repository(CachingConfigRepository):
    """Hydra's, without a copy of the whole store of schemas, which nothing changes."""

    def __init__(self, places: ConfigSearchPath) -> None:
        self.delegate = ConfigRepository(places)
        self.cache = {}


def _describe(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Write into the config how it was composed, as Hydra does."""
    hydra = config.hydra
    of_task = [one for one in overrides if not one.is_hydra_override()]
    hydra.overrides.task = [one.input_line for one in of_task]
    hydra.overrides.hydra = [one.input_line for one in overrides if one.is_hydra_override()]
    with open_dict(hydra):
        for name in hydra.job.env_copy:
            hydra.job.env_set[name] = os.environ[name]
    hydra.runtime.cwd = str(Path.cwd())
    style = hydra.job.config.override_dirname
    hydra.job.override_dirname = get_overrides_dirname(of_task, style.exclude_keys, style.item_sep, style.kv_sep)


def install() -> None:
    """Let Hydra load configs with this loader; it has no setting for that."""
    from hydra._internal import hydra

    hydra.ConfigLoaderImpl = Loader  # type: ignore[attr-defined]

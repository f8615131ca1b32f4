"""What launchers and sweepers need, checked and set before the first job: packages, a store, limits.

The launchers are Hydra's plugins; `conf/hydra/launcher` has their settings.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, open_dict

from quantexp.cli.compose import chosen_beforehand
from quantexp.config.objectives import find_objective, names
from quantexp.system.errors import ConfigError

OPTUNA = "hydra_optuna_sweeper"
EXTRAS = {  # by plugin: the extra that installs it, and the package that does the work
    "hydra_joblib_launcher": ("joblib", "joblib"),
    "hydra_ray_launcher": ("ray", "ray"),
    "hydra_submitit_launcher": ("slurm", "submitit"),
    OPTUNA: ("optuna", "optuna"),
}
AT_ONCE = 2  # jobs of submitit_local, which would start all of them
THIS_HOST = "local"  # Ray's address of a cluster of its own


def in_this_process(hydra: Any) -> bool:
    """Return whether the jobs of a sweep run in the process that began it, by Hydra's settings."""
    return bool(hydra.launcher._target_.endswith(".BasicLauncher"))


def prepare(config: DictConfig) -> None:
    """Check what the launcher and the sweeper of a sweep need, and set their limits.

    Raises:
        ConfigError: If a package is missing, an objective does not fit its sweeper, or jobs could not reach the store.
    """
    faults = [*_missing(config), *_objective_faults(config)]
    if faults or (faults := [*_out_of_reach(config)]):
        raise ConfigError(*faults)
    launcher, sweeper = config.hydra.launcher, config.hydra.sweeper
    with open_dict(config):
        if launcher._target_.endswith(".LocalLauncher") and sweeper.get("max_batch_size", 0) is None:
            sweeper.max_batch_size = AT_ONCE
        directions = [found.direction for name in _objectives(config) if (found := find_objective(name))]
        if directions and sweeper.get("direction", "") is None:
            sweeper.direction = directions if len(directions) > 1 else directions[0]
    if _plugin(sweeper) == OPTUNA:
        for part in ("study", "storages"):  # they tell of each study and of each trial
            logging.getLogger(f"optuna.{part}").setLevel(logging.WARNING)
    if _plugin(launcher) == "hydra_submitit_launcher":
        os.environ.setdefault("SUBMITIT_LOG_LEVEL", "ERROR")  # it warns at each look at a Slurm without accounting
    if _plugin(launcher) == "hydra_ray_launcher":
        _set_ray(launcher)


def _objectives(config: DictConfig) -> list[str]:
    asked: Any = config.sweep.objective or []
    return [asked] if isinstance(asked, str) else list(asked)


def _plugin(part: DictConfig) -> str:
    """Return the name of the plugin that a launcher or sweeper comes from, empty for those of Hydra."""
    package, _, rest = str(part._target_).partition(".")
    return rest.partition(".")[0] if package == "hydra_plugins" else ""


def _missing(config: DictConfig) -> Iterator[str]:
    for group in ("launcher", "sweeper"):
        plugin = _plugin(config.hydra[group])
        if plugin not in EXTRAS:
            continue
        extra, package = EXTRAS[plugin]
        there = find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{plugin}") and find_spec(package)
        if not there:
            chosen = config.hydra.runtime.choices.get(f"hydra/{group}", plugin)
            yield (
                f"hydra/{group}={chosen} needs the extra {extra}, which is not installed; "
                f'run: pip install "quantexp[{extra}]"'
            )


def _objective_faults(config: DictConfig) -> Iterator[str]:
    asked = _objectives(config)
    if _plugin(config.hydra.sweeper) == OPTUNA and not asked:  # other sweepers may choose without one
        yield (
            f"hydra/sweeper={config.hydra.runtime.choices.get('hydra/sweeper')} improves what sweep.objective names; "
            f"give it, as in sweep.objective=accuracy ({names()})"
        )
    elif asked and chosen_beforehand(config):
        yield f"sweep.objective={','.join(asked)} needs a sweeper that searches, as in hydra/sweeper=optuna"


def _out_of_reach(config: DictConfig) -> Iterator[str]:
    uri, where = str(config.tracking.uri), _other_hosts(config)
    if where and uri.startswith("sqlite:"):
        yield (
            f"jobs of {where} run on other hosts, and these cannot record in the SQLite file of this one ({uri}); "
            "start a tracking server that all hosts reach, and use tracking=server tracking.uri=http://HOST:5000 "
            "(docs/launchers.md)"
        )


def _other_hosts(config: DictConfig) -> str | None:
    """Return the launcher if its jobs can run on other hosts, None if all run on this one."""
    launcher, name = config.hydra.launcher, config.hydra.runtime.choices.get("hydra/launcher")
    if launcher._target_.endswith((".SlurmLauncher", ".RayAWSLauncher")):
        return f"hydra/launcher={name}"
    if _plugin(launcher) == "hydra_ray_launcher" and (address := launcher.ray.init.get("address")) != THIS_HOST:
        return f"hydra/launcher={name} with hydra.launcher.ray.init.address={'null' if address is None else address}"
    return None


def _set_ray(launcher: DictConfig) -> None:
    """Set what Ray reads from the environment when it starts; what the user has set is kept."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines of tables that are equal in two runs
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # num_gpus=0 must not hide the GPUs
    if launcher.ray.init.get("address") != THIS_HOST:
        return
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on every system: it listens on loopback only
    if not any(os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        # A token for this sweep. Without one Ray would write one into the home directory, for all that follow.
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)

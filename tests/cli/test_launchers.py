"""Launchers and sweepers: what is refused before the first job, and what is set for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from quantexp.cli import launchers
from quantexp.cli.launchers import in_this_process, prepare
from quantexp.cli.schemas import conf_dir, register
from quantexp.config.objectives import find_objective
from quantexp.system.errors import ConfigError

LAUNCHERS = {"joblib": "joblib", "ray": "ray", "submitit_local": "slurm", "submitit_slurm": "slurm"}
VARIABLES = (
    *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED", "RAY_DEDUP_LOGS"),
    *("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "SUBMITIT_LOG_LEVEL"),
)
SERVER = ("tracking=server", "tracking.uri=http://node7:5000")


@pytest.fixture(autouse=True)
def _register() -> None:
    register()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every package seem to be installed."""
    monkeypatch.setattr(launchers, "find_spec", lambda name: object())


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    yield
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(before)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


@pytest.mark.parametrize(("launcher", "extra"), LAUNCHERS.items())
def test_a_launcher_without_its_package_names_the_extra(
    launcher: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf'hydra/launcher={launcher} needs .* pip install "quantexp\[{extra}\]"'):
        prepare(composed(f"hydra/launcher={launcher}"))


def test_a_plugin_without_the_package_below_it_is_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(ConfigError, match=r"quantexp\[ray\]"):
        prepare(composed("hydra/launcher=ray"))


def test_the_launcher_of_hydra_itself_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    config = composed()
    prepare(config)
    assert in_this_process(config.hydra)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_of_the_other_launchers_run_in_other_processes(launcher: str) -> None:
    assert not in_this_process(composed(f"hydra/launcher={launcher}").hydra)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "remote",
    [
        ["hydra/launcher=submitit_slurm"],
        ["hydra/launcher=ray", "hydra.launcher.ray.init.address=auto"],
        ["hydra/launcher=ray", "hydra.launcher.ray.init.address=10.0.0.1:6379"],
        ["hydra/launcher=ray", "hydra.launcher.ray.init.address=null"],
    ],
)
@pytest.mark.parametrize("store", [[], ["tracking=server", "tracking.uri=sqlite:////home/me/mlflow.db"]])
def test_a_sqlite_store_is_refused_for_jobs_on_other_hosts(remote: list[str], store: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"SQLite file of this one .* use tracking=server tracking.uri=http://"):
        prepare(composed(*remote, *store))
    prepare(composed(*remote, *SERVER))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local"])
def test_a_sqlite_store_serves_jobs_of_this_host(launcher: str) -> None:
    prepare(composed(f"hydra/launcher={launcher}"))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("asked", "limit"), [([], 2), (["hydra.sweeper.max_batch_size=5"], 5)])
def test_submitit_on_this_host_does_not_start_all_jobs_at_once(asked: list[str], limit: int) -> None:
    config = composed("hydra/launcher=submitit_local", *asked)
    prepare(config)
    assert config.hydra.sweeper.max_batch_size == limit


@pytest.mark.usefixtures("installed")
def test_ray_does_not_repeat_killed_jobs_and_sends_no_statistics() -> None:
    config = composed("hydra/launcher=ray")
    prepare(config)
    assert config.hydra.launcher.ray.remote.max_retries == 0
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.usefixtures("installed")
def test_ray_on_this_host_has_a_token_of_its_own_and_listens_on_loopback() -> None:
    prepare(composed("hydra/launcher=ray"))
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


@pytest.mark.usefixtures("installed")
def test_the_token_of_a_cluster_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(composed("hydra/launcher=ray", "hydra.launcher.ray.init.address=node7:6379", *SERVER))
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    prepare(composed("hydra/launcher=ray"))
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.usefixtures("installed")
def test_slurm_runs_no_job_twice() -> None:
    launcher = composed("hydra/launcher=submitit_slurm").hydra.launcher
    assert launcher.max_num_timeout == 0
    assert launcher.additional_parameters["no-requeue"] is True


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("objective", "direction"),
    [("accuracy", "maximize"), ("size", "minimize"), ("[accuracy,size]", ["maximize", "minimize"])],
)
def test_the_direction_of_a_search_follows_from_its_objective(objective: str, direction: object) -> None:
    config = composed("hydra/sweeper=optuna", f"sweep.objective={objective}")
    prepare(config)
    assert config.hydra.sweeper.direction == direction
    assert config.hydra.sweeper.max_failure_rate == 1.0


@pytest.mark.usefixtures("installed")
def test_a_search_without_an_objective_is_refused_and_an_objective_without_a_search_too() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.objective=accuracy"):
        prepare(composed("hydra/sweeper=optuna"))
    with pytest.raises(ConfigError, match="hydra/sweeper=optuna"):
        prepare(composed("sweep.objective=speedup"))


def test_an_objective_is_a_metric_at_the_smallest_batch_size_unless_it_names_one() -> None:
    metrics = {"accuracy": 0.9, "speedup_b64": 3.0, "speedup_b8": 2.0, "speedup_b8_low": 1.0, "size_mb": 1.5}
    values = {
        name: found.value(metrics)
        for name in ("accuracy", "speedup", "speedup_b64", "size", "latency")
        if (found := find_objective(name))
    }
    assert values == {"accuracy": 0.9, "speedup": 2.0, "speedup_b64": 3.0, "size": 1.5, "latency": None}
    assert find_objective("speed") is None
    assert find_objective("accuracy_b1") is None
    assert find_objective("speedup_bx") is None

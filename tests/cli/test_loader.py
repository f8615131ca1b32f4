"""Configs are composed once for each choice of groups, and are those that Hydra composes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, Node, OmegaConf

from quantexp.cli.loader import Loader
from quantexp.cli.schemas import conf_dir, register

COMPOSED = [
    ["seed=3", "quant=dynamic", "batch_size=[1,2]"],
    ["experiment=lab", "quant.flow=fx", "+experiment/precision=static_int8"],
    ["~study", "train.epochs=3", "+train.more=1", "++model.hidden=[2]", "seed=1", "seed=2"],
    ["hydra.job.env_copy=[SHELL_OF_TEST]", "hydra.sweep.dir=/x", "hydra.job.name=other"],
    ["+extra=five", "train=slow"],
]
SWEPT = [["quant=static,dynamic", "seed=1,2"], ["seed=interval(1,2)", "task=text"]]
REFUSED = [
    ["quant=statik"],
    ["train.epochs=x"],
    ["nope=1"],
    ["quant=1"],
    ["quant={a: 1}"],
    ["quant@other=static"],
    ["~train.epochs=7"],
    ["seed=1,2"],
    ["seed=[1"],
]


@pytest.fixture
def hydras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConfigLoader]:
    """Hydra's loader, with a folder of the user's configs; a variable of the environment is set."""
    monkeypatch.setenv("SHELL_OF_TEST", "yes")
    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def described(node: Node) -> Any:
    """A node with all that a config knows of it: types, flags, and values before they are resolved."""
    metadata = node._metadata
    facts = metadata.ref_type, metadata.object_type, metadata.optional, metadata.key, metadata.flags or {}
    content = node.__dict__["_content"] if isinstance(node, DictConfig | ListConfig) else node._value()
    if isinstance(content, dict):
        return facts, [(key, described(child)) for key, child in content.items()]
    if isinstance(content, list):
        return facts, [described(child) for child in content]
    return facts, content


def composed(loader: ConfigLoader, overrides: list[str], mode: RunMode = RunMode.RUN) -> Any:
    """What a loader composes, or its error."""
    try:
        return described(loader.load_configuration("config", list(overrides), mode))
    except Exception as error:
        return type(error), str(error), str(error.__cause__)


@pytest.mark.parametrize("overrides", COMPOSED, ids=" ".join)
def test_a_config_is_the_one_that_hydra_composes(hydras: ConfigLoader, own: str, overrides: list[str]) -> None:
    ours, overrides = Loader.of(hydras), [own, *overrides]
    expected = composed(hydras, overrides)
    assert not isinstance(expected[0], type), f"Hydra cannot compose it: {expected}"
    assert composed(ours, overrides) == expected
    assert composed(ours, overrides) == expected, "the second time, from what was kept"


@pytest.mark.parametrize("overrides", SWEPT, ids=" ".join)
def test_the_config_of_a_sweep_is_the_one_that_hydra_composes(hydras: ConfigLoader, overrides: list[str]) -> None:
    assert composed(Loader.of(hydras), overrides, RunMode.MULTIRUN) == composed(hydras, overrides, RunMode.MULTIRUN)


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_what_hydra_refuses_is_refused_with_the_same_error(hydras: ConfigLoader, overrides: list[str]) -> None:
    ours = Loader.of(hydras)
    composed(ours, [])
    expected = composed(hydras, overrides)
    assert isinstance(expected[0], type), "Hydra must refuse it"
    assert composed(ours, overrides) == expected


def test_a_choice_of_groups_is_composed_once(hydras: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, made = Loader.of(hydras), []
    compose = ConfigLoaderImpl._compose_config_from_defaults_list
    monkeypatch.setattr(
        ConfigLoaderImpl,
        "_compose_config_from_defaults_list",
        lambda *args, **kwargs: made.append(1) or compose(*args, **kwargs),
    )
    for seed in range(3):
        assert ours.load_configuration("config", [f"seed={seed}", "quant=none"], RunMode.RUN).seed == seed
    assert len(made) == 1
    ours.load_configuration("config", ["quant=dynamic"], RunMode.RUN)
    assert len(made) == 2


def test_a_change_of_one_job_does_not_reach_the_next(hydras: ConfigLoader) -> None:
    ours = Loader.of(hydras)
    first = ours.load_configuration("config", ["quant=none"], RunMode.RUN)
    first.train.epochs = 99
    first.hydra.job.num = 5
    assert ours.load_configuration("config", ["quant=none"], RunMode.RUN).train.epochs != 99


WORKER = """
import pickle, sys
loader, singletons = pickle.load(sys.stdin.buffer)  # before a launcher brings Hydra's plugins
from hydra.core.singleton import Singleton
Singleton.set_state(pickle.loads(singletons))
from hydra.types import RunMode
from omegaconf import OmegaConf
config = loader.load_configuration("config", sys.argv[1:], RunMode.RUN)
print(OmegaConf.to_yaml(config, sort_keys=True))
"""


def test_a_worker_in_a_process_of_its_own_composes_with_the_loader_that_a_launcher_sends(
    hydras: ConfigLoader, own: str
) -> None:
    ours, overrides = Loader.of(hydras), [own, "train=slow", "seed=7"]
    expected = ours.load_configuration("config", overrides, RunMode.RUN)
    sent = pickle.dumps((ours, cloudpickle.dumps(Singleton.get_state())))
    worker = subprocess.run([sys.executable, "-c", WORKER, *overrides], input=sent, capture_output=True, check=True)
    assert worker.stdout.decode().strip() == OmegaConf.to_yaml(expected, sort_keys=True).strip()


def test_what_a_loader_has_kept_is_not_sent_to_workers(hydras: ConfigLoader) -> None:
    ours = Loader.of(hydras)
    before = len(pickle.dumps(ours))
    composed(ours, ["quant=none"])
    assert len(pickle.dumps(ours)) == before

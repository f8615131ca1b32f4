"""Everything committed in conf/ composes to an experiment that can be run."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig

from quantexp.cli.compose import combinations, to_experiment
from quantexp.cli.plan import plan
from quantexp.cli.schemas import conf_dir, register
from quantexp.config import (
    METHODS,
    OF_ONE_RUNTIME,
    OPTIONS,
    OVER_TORCH_AO,
    ByLayer,
    Engine,
    Experiment,
    Flow,
    Mnist,
    Paired,
    Quant,
    Server,
)
from quantexp.system.errors import ConfigError

COMMITTED = sorted(
    (str(path.parent.relative_to(conf_dir())), path.stem)
    for path in conf_dir().rglob("*.yaml")
    if path.stem != "config"
)
OURS = [(group, value) for group, value in COMMITTED if not group.startswith(("hydra/", "experiment"))]
STUDIES = [value for group, value in COMMITTED if group == "experiment"]
VARIANTS = [f"+{group}={value}" for group, value in COMMITTED if group.startswith("experiment/")]
HYDRAS = [(group, value) for group, value in COMMITTED if group.endswith("_logging")]
BY_LAYER = [method for method in METHODS if issubclass(method, ByLayer)]
ADDRESS = "http://localhost:5000"


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=hydra)


@pytest.fixture(autouse=True)
def an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTEXP_DATA_DIR", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)  # tracking=server has no other default


def test_the_folder_holds_every_option() -> None:
    assert Path(conf_dir(), "config.yaml").is_file()
    assert {(option.group, option.name) for option in OPTIONS} <= set(OURS)


def test_the_defaults_are_those_of_python() -> None:
    config = composed()
    assert re.fullmatch(r"[\d_-]{26}", config.sweep.name)  # after its moment
    assert to_experiment(composed("sweep.name=null")) == Experiment()


@pytest.mark.slow
@pytest.mark.parametrize(("group", "value"), OURS, ids=map("=".join, OURS))
def test_every_committed_value_composes_to_a_checked_experiment(group: str, value: str) -> None:
    required = {  # what has no default, or does not go with the others'
        "model=custom": ["model.target=quantexp.models.mlp.MLP"],
        "task=custom": ["task.target=package.module.Class"],
        "runtime=compiled": ["quant.flow=pt2e"],
        "model=lstm": ["task=sst2"],
        "model=bert": ["task=sst2"],
        "model=wav2vec2": ["task=audio"],
        "model=transformers": ["model.path=folder"],
    }
    chosen = f"{group}={value}"
    experiment = to_experiment(composed(chosen, *required.get(chosen, [])))
    classes: dict[tuple[str, str], Any] = {(option.group, option.name): option for option in OPTIONS}
    assert type(getattr(experiment, group)) is classes.get((group, value), Paired)  # quick is a preset of paired


@pytest.mark.parametrize("study", STUDIES)
def test_every_committed_study_is_a_sweep_of_its_own_name(study: str) -> None:
    config = composed(f"experiment={study}", hydra=True)
    assert config.hydra.mode is RunMode.MULTIRUN
    assert to_experiment(config).sweep.name == study
    assert config.hydra.sweep.dir == f"multirun/{study}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_a_study_composes_to_a_checked_experiment(variant: str) -> None:
    experiment = to_experiment(composed(variant))
    named = variant.partition("=")[2]
    if "network=" in variant or "trained=" in variant:
        family = getattr(experiment.model, "network", getattr(experiment.model, "family", experiment.model.name))
        assert named.startswith(str(family)), "it is named after the network that it builds"
    elif "executed" in variant:
        assert named.startswith(experiment.runtime.name), "it is named after the runtime that executes the network"
    elif "precision" in variant:
        assert named == f"{experiment.quant.name}_{experiment.precision}"
    else:
        sizes = ("size", "length", "seconds") if "input_size" in variant else ("crop", "vocabulary")
        size = next(getattr(experiment.task, name) for name in sizes if getattr(experiment.task, name, None))
        assert named == f"{experiment.task.name}_{size:g}".replace(".", "_")


def test_the_study_of_precisions_holds_every_pair_there_is() -> None:
    pairs = {f"+experiment/precision={method.name}_{name}" for method in METHODS for name in method.precisions}
    assert pairs == {variant for variant in VARIANTS if "precision" in variant}


@pytest.mark.exhaustive
def test_the_study_of_flows_holds_every_method_in_every_flow_with_every_engine() -> None:
    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        config = compose("config", overrides=["experiment=flows", "data=sample"], return_hydra_config=True)
        planned = plan(list(combinations(config)), skip_unsupported=True)
    engines = [
        len(Engine) if flow in OVER_TORCH_AO else 1
        for method in BY_LAYER
        for flow in method.flows
        if flow not in OF_ONE_RUNTIME
    ]
    assert planned.runs == 3 * sum(engines)  # the MLPs of both tasks, and LeNet-5
    axes = (
        2,
        2,
        len(BY_LAYER),
        len(Flow) - len(OF_ONE_RUNTIME),
        len(Engine) + 1,
    )  # one more, as no engine need be given
    assert planned.runs + planned.equal + len(planned.unsupported) == math.prod(axes)


def test_each_network_brings_its_own_crop_unless_told() -> None:
    for model, crop in (("mlp", 20), ("lenet5", 32)):
        assert to_experiment(composed(f"model={model}")).task == Mnist(crop=crop, channels=1)
    assert to_experiment(composed("task.crop=28")).task == Mnist(crop=28, channels=1)


@pytest.mark.parametrize(("group", "value"), HYDRAS, ids=map("=".join, HYDRAS))
def test_every_committed_logging_names_a_handler_that_exists(group: str, value: str) -> None:
    settings = composed(f"{group}={value}", hydra=True).hydra[group.removeprefix("hydra/")]
    assert issubclass(get_class(settings.handlers.screen["class"]), logging.Handler)
    assert settings.root.handlers == ["screen"]


def test_hydra_calls_the_hooks_and_leaves_no_folder_behind() -> None:
    hydra = composed(hydra=True).hydra
    assert get_class(hydra.callbacks.quantexp._target_).__name__ == "Hooks"
    assert hydra.run.dir == "."
    assert hydra.output_subdir is None


@pytest.mark.parametrize(
    ("method", "precision"), [(method, precision) for method in METHODS for precision in method.precisions]
)
def test_every_method_composes_with_each_of_its_precisions(method: type[Quant], precision: str) -> None:
    experiment = to_experiment(composed(f"quant={method.name}", f"precision={precision}"))
    assert type(experiment.quant) is method
    assert experiment.precision == precision


@pytest.mark.parametrize("method", METHODS)
def test_every_method_composes_with_a_precision_of_its_own_choice(method: type[Quant]) -> None:
    experiment = to_experiment(composed(f"quant={method.name}"))
    assert experiment.precision == method.precisions[0]


def test_the_quick_benchmark_is_the_paired_one_with_less_of_all() -> None:
    quick = Paired(threads=1, placements=3, seconds=0.1, extend=1.0)
    assert to_experiment(composed("benchmark=quick")).benchmark == quick


def test_the_fine_benchmark_is_the_paired_one_with_at_most_a_minute() -> None:
    fine = to_experiment(composed("benchmark=fine")).benchmark
    assert fine == Paired(narrow=0.0025, seconds=15.0)
    assert fine.seconds * fine.extend == 60


def test_a_server_takes_its_address_from_the_environment_unless_told() -> None:
    assert to_experiment(composed("tracking=server")).tracking == Server(uri=ADDRESS)
    told = composed("tracking=server", "tracking.uri=http://other:1")
    assert to_experiment(told).tracking == Server(uri="http://other:1")


def test_the_data_folder_comes_from_the_environment_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert to_experiment(composed()).data_dir is None
    monkeypatch.setenv("QUANTEXP_DATA_DIR", "/data/sets")
    assert to_experiment(composed()).data_dir == "/data/sets"
    assert to_experiment(composed("data_dir=/data/mine")).data_dir == "/data/mine"
    assert to_experiment(composed("data_dir=null")).data_dir is None


@pytest.mark.parametrize(
    ("given", "sizes"), [("batch_size=8", [8]), ("batch_size=[2,4]", [2, 4]), ("batch_size=[64]", [64])]
)
def test_batch_sizes_are_typed_as_a_number_or_a_list(given: str, sizes: list[int]) -> None:
    experiment = to_experiment(composed(given))
    assert experiment.batch_size == sizes
    assert isinstance(experiment.batch_size, list)


@pytest.mark.parametrize(
    ("flag", "setting"),
    [
        ("+foo=1", "foo"),
        ("+quant.foo=1", "quant.foo"),
        ("+quant.foo.bar=1", "quant.foo"),
        ("+quant.precisions=[int4]", "quant.precisions"),
        ("+train.name=mine", "train.name"),
        ("+task.load=1", "task.load"),
        ("+model.width=8", "model.width"),
    ],
)
def test_a_setting_that_does_not_exist_cannot_be_forced_in(flag: str, setting: str) -> None:
    with pytest.raises(ConfigError) as error:
        to_experiment(composed(flag))
    assert len(error.value.faults) == 1
    assert error.value.faults[0].startswith(f"there is no setting {setting};")
    assert "--help" in error.value.faults[0]


def test_all_settings_that_were_forced_in_are_named_together() -> None:
    with pytest.raises(ConfigError) as error:
        to_experiment(composed("+quant.foo=1", "+train.bar=2"))
    assert [fault.split(";")[0] for fault in error.value.faults] == [
        "there is no setting quant.foo",
        "there is no setting train.bar",
    ]


def test_the_composed_config_is_left_as_it_was() -> None:
    config = composed("hydra.sweep.dir=sweeps/${hydra.job.name}", hydra=True)
    to_experiment(config)
    assert config.hydra.sweep.dir == "sweeps/quantexp"
    assert "hydra" in config
    assert to_experiment(config).quant == Experiment().quant

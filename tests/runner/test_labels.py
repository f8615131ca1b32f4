"""What a run is called, and its configuration as it is recorded."""

from __future__ import annotations

import json

from omegaconf import OmegaConf

from quantexp.config import (
    Amp,
    CustomModel,
    DataSource,
    Dynamic,
    Experiment,
    Flow,
    Mlp,
    Qat,
    Quant,
    Server,
    Sst2,
    Train,
)
from quantexp.runner.labels import network_title, parameters, run_name, yaml_text

CHOICES = {
    "task": "mnist",
    "model": "mlp",
    "quant": "static",
    "train": "default",
    "benchmark": "paired",
    "tracking": "local",
}


# -- what it is called -----------------------------------------------------------------------------------


def named(*overrides: str, quant: Quant | None = None, **parts: object) -> str:
    experiment = Experiment(quant=quant or Dynamic(), **parts)  # type: ignore[arg-type]
    return run_name(experiment, {**CHOICES, "quant": experiment.quant.name}, overrides)


def test_a_name_begins_with_the_axes() -> None:
    assert named() == "mnist-dynamic-int8-s0"
    assert named(quant=Amp(), seed=7, data=DataSource.sample) == "mnist-sample-amp-bf16-s7"


def test_overrides_that_shape_a_result_tell_names_apart() -> None:
    asked = [
        ["quant.engine=x86"],
        ["quant.engine=onednn"],
        ["train.epochs=1"],
        ["train.epochs=2"],
        ["batch_size=8"],
        ["benchmark=lab"],
        ["quant.engine=x86", "train.epochs=1"],
        ["+train.epochs=3"],
        [],
    ]
    names = [named(*overrides) for overrides in asked]
    assert len(set(names)) == len(asked)
    assert names[0] == "mnist-dynamic-int8-s0 quant.engine=x86"


def test_what_is_in_the_axes_or_tells_no_results_apart_is_not_repeated() -> None:
    silent = ("task=mnist", "quant=dynamic", "precision=int8", "data=full", "seed=0")
    elsewhere = ("data_dir=/data", "cache_dir=/cache", "tracking=server", "tracking.uri=http://u:secret@h", "hydra.x=1")
    assert named(*silent, *elsewhere) == named()


def test_tables_name_the_class_of_a_users_own_network_and_else_the_choice() -> None:
    assert network_title(CustomModel(target="nets.small.Gated"), "custom") == "Gated"
    assert network_title(CustomModel(target="nets.Gated"), "my_gated") == "my_gated"  # from a file of the user's own
    assert network_title(Mlp(), "wide") == "wide"


# -- its parameters --------------------------------------------------------------------------------------


def test_parameters_are_flat_with_the_chosen_names_under_their_groups() -> None:
    experiment = Experiment(task=Sst2(), quant=Qat(epochs=3, flow=Flow.fx), train=Train(epochs=4))
    told = parameters(experiment, {**CHOICES, "task": "sst2", "quant": "qat", "benchmark": "quick"})
    assert {name: told[name] for name in ("task", "quant", "benchmark", "model")} == {
        "task": "sst2",
        "quant": "qat",
        "benchmark": "quick",
        "model": "mlp",
    }
    assert (told["train.epochs"], told["quant.epochs"]) == (4, 3)
    assert (told["quant.engine"], told["train.optimizer"]) == ("x86", "adam")  # names, not Enum members
    assert (told["precision"], told["seed"], told["batch_size"]) == ("int8", 0, [1, 64])
    assert told["model.hidden"] == told["task.hidden"] == [256, 256, 256]
    assert not [name for name, value in told.items() if isinstance(value, dict)]


def test_no_record_of_the_configuration_holds_the_password() -> None:
    uri = "http://user:secret@host:5000"
    experiment = Experiment(tracking=Server(uri=uri))
    recorded = parameters(experiment, CHOICES)
    assert recorded["tracking.uri"] == "http://user:***@host:5000"
    config = OmegaConf.structured({"tracking": {"uri": uri}, "hydra": {"job": "x"}})
    text = yaml_text(config, ["tracking=server", f"tracking.uri={uri}"])
    assert text.startswith("# python -m quantexp tracking=server tracking.uri=http://user:***@host:5000\n")
    assert "secret" not in text + json.dumps(recorded)
    assert "hydra" not in text
    assert config.hydra.job == "x"  # what was handed in is as it was

"""A network of the user's own: found by its name, built for the inputs that it takes, faults in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from quantexp import models
from quantexp.cli.compose import to_experiment
from quantexp.cli.schemas import conf_dir, register
from quantexp.config import CustomModel, Experiment, NoQuant, Static, Train
from quantexp.mission import load
from quantexp.models.custom import is_ours
from quantexp.models.mlp import MLP
from quantexp.results import InputSpec
from quantexp.storage import stored as storage
from quantexp.system.errors import ConfigError, ModelError
from quantexp.training.baseline import trained
from tests.networks import loaded_again
from tests.runs import quantized

Sample = Callable[..., Experiment]

OURS = "quantexp.models.mlp.MLP"
NETWORKS = """
import pathlib
import torch
from torch import nn

pathlib.Path(__file__).with_name("imported").touch()

class Wide(nn.Module):
    def __init__(self, inputs, classes, width=4):
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.first = nn.Linear(inputs, width)
        self.last = nn.Linear(width, classes)

    def forward(self, x):
        return self.last(torch.relu(self.first(self.norm(x))))

class Strict(Wide):
    def __init__(self, inputs, classes):
        raise ValueError("never today")

class Flat(Wide):
    def forward(self, x):
        return super().forward(x)[:, 0]

def function(inputs, classes):
    return nn.Linear(inputs, classes)

def number(inputs, classes, width=0):
    return inputs
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module `own_networks`, on Python's path."""
    folder = tmp_path / "networks"
    folder.mkdir()
    (folder / "own_networks.py").write_text(NETWORKS, encoding="utf-8")
    (folder / "own_broken.py").write_text("import a_module_that_nobody_has\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in ("own_networks", "own_broken"):
        sys.modules.pop(name, None)


def built(target: str, inputs: int = 4, classes: int = 2, **arguments: object) -> nn.Module:
    """The network for so many values."""
    option = CustomModel(target=target, arguments=dict(arguments))
    return models.build(option, (InputSpec("values", (inputs,)),), classes)


def imported(folder: Path) -> bool:
    """Whether the module has run since this was last asked."""
    marker = folder / "imported"
    found = marker.exists()
    marker.unlink(missing_ok=True)
    return found


# As an option


def test_the_class_is_built_with_what_the_task_tells_and_the_arguments() -> None:
    model = built(OURS, 7, 3, hidden=[5])
    assert isinstance(model, MLP)
    assert [tuple(weight.shape) for weight in model.parameters()] == [(5, 7), (5,), (3, 5), (3,)]
    assert model.training


def test_the_same_seed_gives_the_same_weights(networks: Path) -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(built("own_networks.Wide", 7, 3).state_dict()["first.weight"])
    assert torch.equal(*weights)


def test_the_try_that_the_network_is_given_leaves_no_trace_in_it(networks: Path) -> None:
    state = built("own_networks.Wide", 7, 3).state_dict()
    assert int(state["norm.num_batches_tracked"]) == 0


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        (["model.arguments={hidden: [16, 8]}"], {"hidden": [16, 8]}),
        (["model.arguments={hidden: [16], more: {a: null}}"], {"hidden": [16], "more": {"a": None}}),
        ([], {}),
    ],
)
def test_it_is_typed_like_any_other_option(typed: list[str], arguments: dict[str, object]) -> None:
    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        config = compose("config", overrides=["model=custom", f"model.target={OURS}", *typed])
    experiment = to_experiment(config)
    assert experiment.model == CustomModel(target=OURS, arguments=arguments)
    assert type(experiment.model.arguments) is dict


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "model=custom needs a class or a function, got none; give model.target=package.module.Class"),
        ({"target": "Net"}, "model.target must be a class or a function, written package.module.Class, got 'Net'"),
        (
            {"target": "a b.Net"},
            "model.target must be a class or a function, written package.module.Class, got 'a b.Net'",
        ),
        (
            {"target": OURS, "arguments": {"inputs": 3}},
            "model.arguments.inputs is passed by quantexp, got 3; leave it out",
        ),
        ({"target": OURS, "arguments": {1: 2}}, "model.arguments must have names as keys, got 1"),
        (
            {"target": OURS, "arguments": [64]},
            "model.arguments must be names with values, such as {width: 64}, got [64]",
        ),
    ],
)
def test_values_that_name_no_class_are_a_fault(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        CustomModel(**settings)  # type: ignore[arg-type]
    assert error.value.faults == (told,)


def test_arguments_that_cannot_be_stored_are_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"model\.arguments must be plain values, .* got .*object"):
        CustomModel(target=OURS, arguments={"width": object()})


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (
            "own_absent.Net",
            r"must be importable, own_absent is not \(ModuleNotFoundError.*run quantexp in its folder$",
        ),
        ("own_broken.Net", "must be importable, own_broken is not .*a_module_that_nobody_has"),
        (
            "own_networks.Wider",
            "class or a function, there is no Wider in own_networks; it has Flat, Strict, Wide, function, number$",
        ),
        (
            "own_networks.torch",
            "must name a class or a function, torch is neither; it has Flat, Strict, Wide, function, number",
        ),
        ("own_networks.number", "must be a torch.nn.Module or return one, got int$"),
        (
            "own_networks.Flat",
            r"must return shape \(2, 2\) for \(2, 4\), one logit for each class; got \(2,\); correct it$",
        ),
        (
            OURS,
            r"must build as MLP\(inputs=4, classes=2, width=8\).*TypeError: .*'width'.*correct it or model\.arguments",
        ),
    ],
)
def test_a_class_that_cannot_be_built_is_told_in_words(networks: Path, target: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        built(target, width=8)


def test_what_a_constructor_raises_is_told_in_words(networks: Path) -> None:
    with pytest.raises(ConfigError, match=r"build as Strict\(inputs=4, classes=2\).*\(ValueError: never today\)"):
        built("own_networks.Strict")


def test_a_module_that_is_not_there_is_told_before_it_would_be_imported(networks: Path) -> None:
    models.check(CustomModel(target="own_networks.Wide"))
    assert not imported(networks)
    for absent in ("own_absent.Net", "own_absent.below.Net", "own_networks.below.Net"):
        with pytest.raises(ConfigError, match=f"model.target={absent}"):
            models.check(CustomModel(target=absent))


# In a run


def test_a_network_of_ones_own_is_trained_once_and_again_when_its_code_changes(
    sample: Sample, networks: Path, tmp_path: Path
) -> None:
    experiment = sample(
        model=CustomModel(target="own_networks.Wide", arguments={"width": 8}),
        train=Train(epochs=1, threads=1),
        cache_dir=str(tmp_path / "cache"),
    )
    data = load(experiment)

    def entries() -> int:
        trained(experiment, data)
        return len(list((tmp_path / "cache" / "models").glob("*.json")))

    before = models.source(experiment.model)
    assert len(before["source"]) == 64
    assert [entries(), entries()] == [1, 1]
    (networks / "own_networks.py").write_text(NETWORKS + "\n# changed\n", encoding="utf-8")
    assert models.source(experiment.model) != before
    assert entries() == 2


@pytest.fixture
def stored(sample: Sample, networks: Path, tmp_path: Path) -> tuple[Path, nn.Module]:
    """A stored network of the user's own, whose module is no longer imported."""
    experiment = sample(
        quant=NoQuant(), model=CustomModel(target="own_networks.Wide"), train=Train(epochs=1, threads=1)
    )
    data = load(experiment)
    model = quantized(experiment, data).model
    loaded_again(tmp_path / "model", model, experiment, data, trust=True)
    sys.modules.pop("own_networks")
    assert imported(networks)
    return tmp_path / "model", model


def test_a_stored_network_of_ones_own_is_built_with_trust_only(stored: tuple[Path, nn.Module], networks: Path) -> None:
    folder, model = stored
    with pytest.raises(ModelError, match=r"uses 'own_networks\.Wide', whose code would be executed; .*trust=True"):
        storage.load(folder)
    assert not imported(networks)
    again = storage.load(folder, trust=True)
    assert imported(networks)
    inputs = torch.linspace(-1, 1, 800).view(2, 400)
    with torch.no_grad():
        assert torch.equal(again(inputs), model(inputs))


def test_a_class_that_is_gone_is_told_in_words(stored: tuple[Path, nn.Module], networks: Path) -> None:
    (networks / "own_networks.py").unlink()
    with pytest.raises(ModelError, match=r"cannot be built here: model\.target=own_networks\.Wide must be importable"):
        storage.load(stored[0], trust=True)


def test_a_network_of_quantexp_needs_no_trust_by_whatever_name(sample: Sample, tmp_path: Path) -> None:
    option = CustomModel(target=OURS, arguments={"hidden": [16]})
    experiment = sample(quant=Static(), model=option, train=Train(epochs=1, threads=1))
    data = load(experiment)
    model, batch = quantized(experiment, data).model, data.test.first(64)
    again = loaded_again(tmp_path / "model", model, experiment, data)
    with torch.no_grad():
        assert torch.equal(again(*batch), model(*batch))


HOSTILE: dict[str, dict[str, object]] = {
    "a class of the user's path": {"name": "custom", "target": "own_networks.Wide", "arguments": {}},
    "a function of Python": {"name": "custom", "target": "os.system", "arguments": {}},
    "an instruction to Hydra": {"_target_": "os.system", "command": "true"},
    "an instruction beside a network of ours": {"name": "mlp", "hidden": [4], "_target_": "own_networks.Wide"},
    "an instruction beside a class of ours": {"name": "custom", "target": OURS, "_target_": "own_networks.Wide"},
    "a class beside an empty instruction": {"name": "custom", "target": "own_networks.Wide", "_target_": None},
    "no text": {"name": "custom", "target": ["own_networks.Wide"]},
    "what a module of ours imports": {"name": "custom", "target": "quantexp.models.custom.Path"},
    "a module beside ours": {"name": "custom", "target": "quantexp.models.../own_networks.Wide"},
}


@pytest.mark.parametrize("model", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_recipe_that_names_what_is_not_ours_runs_nothing(
    stored: tuple[Path, nn.Module], networks: Path, model: dict[str, object]
) -> None:
    path = stored[0] / "recipe.json"
    recipe = json.loads(path.read_text(encoding="utf-8"))
    recipe["options"]["model"] = model
    path.write_text(json.dumps(recipe), encoding="utf-8")
    with pytest.raises(ModelError):
        storage.load(stored[0])
    assert not imported(networks)
    assert "own_networks" not in sys.modules


@pytest.mark.parametrize(
    ("target", "ours"),
    [(OURS, True), ("torch.nn.Linear", False), ("quantexp.modelsevil.Net", False), (None, False), (3, False)],
)
def test_only_networks_below_the_package_are_ours(target: object, ours: bool) -> None:
    assert is_ours(target) is ours


# Numbers of another size


class Double(nn.Linear):
    """A network in float64 that casts its inputs."""

    def __init__(self, inputs: int, classes: int, dtype: str = "float64") -> None:
        super().__init__(inputs, classes)
        self.to(getattr(torch, dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype))


class Lazy(nn.Sequential):
    """A network whose first layer learns the number of its inputs when it is called."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, classes))
        self.step = nn.Parameter(torch.tensor(1), requires_grad=False)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_parameters_that_are_not_float32_are_refused_with_the_name_of_one(dtype: str) -> None:
    with pytest.raises(ConfigError, match=rf"parameters in float32, weight is in {dtype}; build it in float32"):
        built(f"{__name__}.Double", dtype=dtype)
    assert built(f"{__name__}.Double", dtype="float32").weight.dtype is torch.float32


def test_parameters_of_integers_and_those_not_yet_made_are_no_fault() -> None:
    assert next(name for name, _ in built(f"{__name__}.Lazy").named_parameters()) == "step"

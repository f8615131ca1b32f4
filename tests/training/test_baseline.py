"""What is trained from the float network, and the weights that it starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from quantexp import models
from quantexp.config import Amp, CustomModel, Dynamic, Experiment, Mlp, NoQuant, Qat, Quant, Start, Static, Train
from quantexp.mission import input_kind, load
from quantexp.runner.checks import check_inputs
from quantexp.state.checkpoint import float_weights
from quantexp.storage.recipe import Recipe
from quantexp.storage.stored import save
from quantexp.system.errors import TrainingError
from quantexp.training.baseline import Baseline, trained
from tests.runs import quantized, same_weights

Sample = Callable[..., Experiment]


def baseline(experiment: Experiment, weights: Path | None = None) -> Baseline:
    return trained(experiment, load(experiment), weights)


def apply(experiment: Experiment) -> nn.Module:
    return quantized(experiment).model


# What is trained from the float model, or beside it


@pytest.mark.parametrize("quant", [Qat(), Qat(start=Start.scratch), Amp()], ids=["qat", "qat from scratch", "amp"])
def test_what_a_method_trains_is_trained_once(small: Sample, trainings: list[str], quant: Qat | Amp) -> None:
    experiment = small(quant=quant)
    data = load(experiment)
    first, second = apply(experiment), apply(experiment)
    assert len(trainings) == 2, "the float model and the method's own, each once"
    assert len(list((Path(str(experiment.cache_dir)) / "models").glob("*.json"))) == 2
    with torch.no_grad():
        batch = data.test.first(64)
        assert torch.equal(first(*batch), second(*batch))


def test_the_precision_of_amp_shapes_its_weights(small: Sample, trainings: list[str]) -> None:
    apply(small(quant=Amp(), precision="bf16"))
    apply(small(quant=Amp(), precision="fp16"))
    assert trainings == ["train mnist", "amp bf16", "amp fp16"]


@pytest.mark.parametrize(
    "change",
    [{"start": Start.scratch}, {"weights": "per_tensor"}, {"freeze_after": 0.9}, {"epochs": 2}, {"learning_rate": 0.1}],
    ids=lambda change: next(iter(change)),
)
def test_what_shapes_the_weights_of_qat_makes_another_entry(
    small: Sample, trainings: list[str], change: dict[str, object]
) -> None:
    apply(small(quant=Qat()))
    apply(small(quant=Qat(**change)))  # type: ignore[arg-type]
    assert len(trainings) == 3


def test_qat_follows_the_float_model_that_it_starts_from(small: Sample, trainings: list[str], tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("one", "other")]
    for seed, path in enumerate(paths):
        save_file(baseline(small(seed=seed)).model.state_dict(), path)
    trainings.clear()
    one, other = (Train(epochs=1, threads=1, checkpoint=path) for path in paths)
    apply(small(quant=Qat(), train=one))
    apply(small(quant=Qat(), train=other))
    assert len(trainings) == 2, "same recipe and seed, another float model"
    apply(small(quant=Qat(), train=one))
    assert len(trainings) == 2


def test_qat_from_scratch_does_not_follow_the_float_model(small: Sample, trainings: list[str]) -> None:
    quant = Qat(start=Start.scratch, epochs=1, learning_rate=0.01)
    apply(small(quant=quant))
    apply(small(quant=quant, train=Train(epochs=2, threads=1, learning_rate=0.02)))
    assert [label.split()[0] for label in trainings] == ["train", "qat", "train"]


# The weights of a run


@pytest.fixture
def stored(small: Sample, tmp_path: Path) -> Callable[..., Path]:
    """Store what a method makes of the float model, as a run does; the folder."""

    def store(quant: Quant, precision: str | None = None) -> Path:
        experiment = small(quant=quant, precision=precision)
        data = load(experiment)
        save(tmp_path / "model", apply(experiment), Recipe.of(experiment, data, input_kind(experiment)))
        return tmp_path / "model"

    return store


RUN = "0a" * 16


@pytest.mark.parametrize("reference", [RUN, f"runs:/{RUN}"])
@pytest.mark.parametrize("quant", [NoQuant(), Amp()], ids=["none", "amp"])
def test_the_float32_weights_of_a_run_are_used_instead_of_training(
    small: Sample,
    trainings: list[str],
    stored: Callable[..., Path],
    quant: Quant,
    reference: str,
) -> None:
    folder = stored(quant)
    trainings.clear()
    taken = baseline(small(train=Train(checkpoint=reference)), folder)
    weights = float_weights(folder)
    assert all(torch.equal(weights[name], value) for name, value in taken.model.state_dict().items())
    assert taken.training is None
    assert taken.key == {"checkpoint": hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()}
    assert trainings == []


@pytest.mark.parametrize(("quant", "precision"), [(Dynamic(), "int8"), (NoQuant(), "bf16"), (Static(), "int8")])
def test_a_run_whose_weights_are_not_float32_is_refused_in_words(
    small: Sample, stored: Callable[..., Path], quant: Quant, precision: str
) -> None:
    folder = stored(quant, precision)
    told = f"got those of a run with quant={quant.name} and precision={precision}"
    with pytest.raises(TrainingError, match=f"train.checkpoint=runs:/{RUN}: .*{told}"):
        baseline(small(train=Train(checkpoint=f"runs:/{RUN}")), folder)


def test_a_run_of_another_network_is_an_error_that_names_the_layer(small: Sample, stored: Callable[..., Path]) -> None:
    folder = stored(NoQuant())
    with pytest.raises(TrainingError, match=rf"train.checkpoint={RUN} does not fit .*expected \(9, 400\), found"):
        baseline(small(train=Train(checkpoint=RUN), model=Mlp(hidden=[9])), folder)


@pytest.mark.parametrize(
    ("checkpoint", "run_id"),
    [
        ("runs:/nowhere", "nowhere"),
        (f"runs:/{'0a' * 16}", "0a" * 16),
        ("0a" * 16, "0a" * 16),
        ("0a" * 15, None),
        ("0A" * 16, None),
        ("runs:/", None),
        ("runs:/../x", None),
        ("runs:/one/model", None),
        ("own.safetensors", None),
        (None, None),
    ],
)
def test_a_checkpoint_names_a_run_in_two_ways(checkpoint: str | None, run_id: str | None) -> None:
    assert Train(checkpoint=checkpoint).checkpoint_run == run_id


def test_what_is_neither_a_file_nor_a_run_is_refused_before_torch_is_needed(small: Sample) -> None:
    check_inputs(small(train=Train(checkpoint="runs:/nowhere")))  # whether it exists shows when it is read
    for checkpoint in ("runs:/one/model", "lost.pt", "0a" * 15):
        with pytest.raises(TrainingError, match=rf"there is no file {checkpoint}; .* or give a run as runs:/RUN_ID"):
            check_inputs(small(train=Train(checkpoint=checkpoint)))


# The user's own weights


@pytest.mark.parametrize("name", ["own.safetensors", "own.pt", "own.pth"])
def test_a_checkpoint_is_used_instead_of_training(
    small: Sample, trainings: list[str], tmp_path: Path, name: str
) -> None:
    data = load(small())
    own = models.build(Mlp(hidden=[8]), data.inputs, data.classes)
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(own.state_dict(), path)
    else:
        torch.save(own.state_dict(), path)
    taken = trained(small(train=Train(checkpoint=str(path))), data)
    assert same_weights(taken.model, own)
    assert taken.training is None
    assert taken.key == {"checkpoint": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert not taken.model.training
    assert trainings == []


# A network of which nothing is trained


class Frozen(nn.Linear):
    """A network whose own weights are meant to stay."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.requires_grad_(False)


def test_a_frozen_network_keeps_its_weights_and_the_run_says_so(
    small: Sample, trainings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    experiment = small(model=CustomModel(target=f"{__name__}.Frozen"), quant=Dynamic())
    made = baseline(experiment)
    assert made.training is None
    assert not made.model.training
    assert same_weights(made.model, made.fresh())
    assert trainings == []
    assert "skipped: all parameters of the network are frozen" in caplog.text
    apply(experiment)


@pytest.mark.parametrize("quant", [Qat(flow="eager"), Amp()], ids=["qat", "amp"])
def test_a_method_that_trains_refuses_a_frozen_network(small: Sample, quant: Qat | Amp) -> None:
    with pytest.raises(TrainingError, match=r"are frozen .*; use a method without training, or"):
        apply(small(model=CustomModel(target=f"{__name__}.Frozen"), quant=quant))

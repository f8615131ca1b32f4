"""Networks of runs: loaded again, and started from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import quantexp
from quantexp.config import Amp, Dynamic, Experiment, Local, Mlp, NoQuant, Quant, Static, Train
from quantexp.runner.identity import configuration
from quantexp.storage.stored import save
from quantexp.system.errors import ModelError, TrackingError, TrainingError
from quantexp.tracking.store import open_store

Sample = Callable[..., Experiment]


@pytest.fixture
def small(sample: Sample) -> Sample:
    """Build a quick experiment on a small network."""

    def build(**parts: object) -> Experiment:
        settings = {"model": Mlp(hidden=[8]), "train": Train(epochs=1, threads=1), "batch_size": 1, "quant": NoQuant()}
        return sample(**{**settings, **parts})

    return build


@pytest.fixture
def stored(small: Sample, workdir: Path, tmp_path: Path) -> Callable[..., tuple[str, Path]]:
    """Store what a method makes of the float model as the network of a run; its id, and the folder in the store."""

    def store_run(quant: Quant, precision: str | None = None) -> tuple[str, Path]:
        experiment = small(quant=quant, precision=precision)
        result = quantexp.run(experiment)
        store = open_store(Local())
        run_id = store.client.create_run(store.experiment_id).info.run_id
        save(tmp_path / "model", result.model, result.recipe)
        store.client.log_artifacts(run_id, str(tmp_path / "model"), "model")
        return run_id, workdir / "mlartifacts" / run_id / "artifacts" / "model"

    return store_run


@pytest.mark.parametrize("reference", ["{}", "runs:/{}"])
@pytest.mark.parametrize("quant", [NoQuant(), Amp()], ids=["none", "amp"])
def test_a_run_starts_from_the_float32_weights_of_another(
    small: Sample,
    stored: Callable[..., tuple[str, Path]],
    caplog: pytest.LogCaptureFixture,
    quant: Quant,
    reference: str,
) -> None:
    run_id, folder = stored(quant)
    experiment = small(train=Train(checkpoint=reference.format(run_id)))
    with caplog.at_level(logging.INFO, "quantexp"):
        result = quantexp.run(experiment)
    weights = load_file(folder / "state.safetensors")
    wrapper = "model." if quant.name == "amp" else ""
    assert all(torch.equal(weights[wrapper + name], value) for name, value in result.model.state_dict().items())
    assert result.report.float_training is None
    assert f"train     skipped: weights from {reference.format(run_id)}" in caplog.text
    assert configuration(experiment)["train"]["checkpoint"] == reference.format(run_id)


@pytest.mark.parametrize(("quant", "precision"), [(Dynamic(), "int8"), (NoQuant(), "bf16"), (Static(), "int8")])
def test_a_run_whose_weights_are_not_float32_is_refused_in_words(
    small: Sample, stored: Callable[..., tuple[str, Path]], quant: Quant, precision: str
) -> None:
    run_id, _ = stored(quant, precision)
    told = f"got those of a run with quant={quant.name} and precision={precision}"
    with pytest.raises(TrainingError, match=f"train.checkpoint=runs:/{run_id}: .*{told}"):
        quantexp.run(small(train=Train(checkpoint=f"runs:/{run_id}")))


def test_a_run_of_another_network_is_an_error_that_names_the_layer(
    small: Sample, stored: Callable[..., tuple[str, Path]]
) -> None:
    run_id, _ = stored(NoQuant())
    with pytest.raises(TrainingError, match=rf"train.checkpoint={run_id} does not fit .*expected \(9, 400\), found"):
        quantexp.run(small(train=Train(checkpoint=run_id), model=Mlp(hidden=[9])))


def test_a_run_that_is_not_there_is_told_before_anything_is_trained(small: Sample, workdir: Path) -> None:
    with pytest.raises(TrackingError, match="has no run 'nowhere'"):
        quantexp.run(small(train=Train(checkpoint="runs:/nowhere")))


def test_a_folder_is_loaded_without_a_store(
    stored: Callable[..., tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = stored(Dynamic())
    monkeypatch.chdir(folder.parent)
    batch = torch.zeros(2, 400)
    with torch.no_grad():
        assert torch.equal(quantexp.load(folder)(batch), quantexp.load("model")(batch))
    assert {path.name for path in folder.parent.iterdir()} == {"model"}


@pytest.mark.parametrize("path", ["mlartifacts", "absent/folder"])
def test_a_folder_without_a_stored_network_is_told(workdir: Path, path: str) -> None:
    Path("mlartifacts").mkdir()
    with pytest.raises(ModelError, match=rf"a stored model is a folder that contains recipe\.json, {path} does not"):
        quantexp.load(path)

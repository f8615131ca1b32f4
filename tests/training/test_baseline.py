from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

import quantexp.quant.methods.amp
import quantexp.quant.methods.qat
import quantexp.training.baseline
import quantexp.training.loop
from quantexp.config import (
    Amp,
    Dynamic,
    Experiment,
    Lab,
    Mlp,
    Mnist,
    NoQuant,
    Optimizer,
    Paired,
    Qat,
    Server,
    Sst2,
    Start,
    Static,
    Train,
)
from quantexp.results import Training
from quantexp.system.errors import CacheError, TrainingError
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import Baseline

Sample = Callable[..., Experiment]


@pytest.fixture
def small(sample: Sample, tmp_path: Path) -> Sample:
    """Build a quick experiment whose cache is empty and its own."""

    def build(**parts: object) -> Experiment:
        settings: dict[str, object] = {
            "model": Mlp(hidden=[8]),
            "train": Train(epochs=1, threads=1),
            "cache_dir": str(tmp_path / "cache"),
        }
        return sample(**{**settings, **parts})

    return build


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the trainings: the label of each one that is run, in order."""
    labels: list[str] = []

    def counting(model: nn.Module, *arguments: object, label: str, **settings: object) -> Training:
        labels.append(label)
        return quantexp.training.loop.fit(model, *arguments, label=label, **settings)  # type: ignore[arg-type]

    for module in (quantexp.training.baseline, quantexp.quant.methods.qat, quantexp.quant.methods.amp):
        monkeypatch.setattr(module, "fit", counting)
    return labels


def baseline(experiment: Experiment) -> Baseline:
    return experiment.baseline(experiment.load())


def entries(experiment: Experiment, suffix: str) -> list[Path]:
    return sorted((Path(str(experiment.cache_dir)) / "models").glob(f"*{suffix}"))


def equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def apply(experiment: Experiment) -> nn.Module:
    data = experiment.load()
    trained = experiment.baseline(data)
    return experiment.quant.apply(trained, data, experiment.train, str(experiment.precision)).model


# The cache


def test_the_float_model_is_trained_once_and_then_loaded_bit_for_bit(small: Sample, trainings: list[str]) -> None:
    first = baseline(small())
    second = baseline(small())
    assert trainings == ["train mnist"]
    assert equal(first.model, second.model)
    assert first.training == second.training
    assert not first.model.training
    assert not second.model.training


def test_an_entry_holds_its_key_in_clear_and_the_digest_of_its_weights(small: Sample) -> None:
    experiment = small(seed=3)
    baseline(experiment)
    (record,), (weights,) = entries(experiment, ".json"), entries(experiment, ".safetensors")
    entry = json.loads(record.read_bytes())
    assert record.stem == weights.stem
    assert entry["key"]["seed"] == 3
    assert entry["key"]["task"]["name"] == "mnist"
    assert entry["key"]["torch"] == torch.__version__
    assert entry["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


SHAPING: dict[str, dict[str, object]] = {
    "seed": {"seed": 1},
    "epochs": {"train": Train(epochs=2, threads=1)},
    "learning rate": {"train": Train(epochs=1, threads=1, learning_rate=0.01)},
    "training batch size": {"train": Train(epochs=1, threads=1, batch_size=32)},
    "optimizer": {"train": Train(epochs=1, threads=1, optimizer=Optimizer.sgd)},
    "training threads": {"train": Train(epochs=1, threads=2)},
    "hidden": {"model": Mlp(hidden=[9])},
    "crop": {"task": Mnist(crop=24)},
    "task": {"task": Sst2()},
    "validation": {"validation": 0.1},
}


@pytest.mark.parametrize("change", SHAPING.values(), ids=SHAPING.keys())
def test_what_shapes_the_weights_makes_another_entry(
    small: Sample, trainings: list[str], change: dict[str, object]
) -> None:
    before, after = baseline(small()), baseline(small(**change))
    assert len(trainings) == 2
    assert before.key != after.key
    assert not equal(before.model, after.model) or change == SHAPING["training threads"]
    baseline(small())
    baseline(small(**change))
    assert len(trainings) == 2, "both entries stand side by side"


def test_other_data_make_another_entry(small: Sample, trainings: list[str]) -> None:
    experiment = small()
    data = experiment.load()
    other = dataclasses.replace(data, fingerprint="0" * 64)
    assert experiment.baseline(data).key != experiment.baseline(other).key
    assert len(trainings) == 2


def test_the_split_that_is_measured_on_does_not_shape_the_weights(small: Sample, trainings: list[str]) -> None:
    keys = [baseline(small(validation=0.1, evaluation=split)).key for split in ("test", "validation")]
    assert keys[0] == keys[1]
    assert keys[0]["data"]["validation"] == 0.1
    assert "validation" not in baseline(small()).key["data"], "entries made before there was one stay valid"
    assert len(trainings) == 2


INDIFFERENT: dict[str, dict[str, object]] = {
    "inference batch sizes": {"batch_size": [3]},
    "protocol": {"benchmark": Lab()},
    "benchmark threads": {"benchmark": Paired(threads=2)},
    "none": {"quant": NoQuant()},
    "dynamic": {"quant": Dynamic()},
    "calibration": {"quant": Static(calibration_examples=7)},
    "tracking": {"tracking": Server(uri="http://nowhere.invalid:1")},
}


@pytest.mark.parametrize("change", INDIFFERENT.values(), ids=INDIFFERENT.keys())
def test_what_does_not_shape_the_weights_finds_the_same_entry(
    small: Sample, trainings: list[str], change: dict[str, object]
) -> None:
    before, after = baseline(small()), baseline(small(**change))
    assert trainings == ["train mnist"]
    assert before.key == after.key
    assert equal(before.model, after.model)


def truncate(experiment: Experiment) -> None:
    (weights,) = entries(experiment, ".safetensors")
    weights.write_bytes(weights.read_bytes()[:100])


def empty(experiment: Experiment) -> None:
    entries(experiment, ".safetensors")[0].write_bytes(b"")


def remove_weights(experiment: Experiment) -> None:
    entries(experiment, ".safetensors")[0].unlink()


def flip_a_byte(experiment: Experiment) -> None:
    (weights,) = entries(experiment, ".safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # in the last weight
    weights.write_bytes(content)


def write_no_json(experiment: Experiment) -> None:
    entries(experiment, ".json")[0].write_bytes(b"{ \xff")


def write_a_list(experiment: Experiment) -> None:
    entries(experiment, ".json")[0].write_text("[]", encoding="utf-8")


def drop_the_record(experiment: Experiment) -> None:
    (record,) = entries(experiment, ".json")
    entry = json.loads(record.read_bytes())
    del entry["training"]
    record.write_text(json.dumps(entry), encoding="utf-8")


def drop_a_field_of_the_record(experiment: Experiment) -> None:
    (record,) = entries(experiment, ".json")
    entry = json.loads(record.read_bytes())
    del entry["training"]["seconds"]
    record.write_text(json.dumps(entry), encoding="utf-8")


def drop_the_digest(experiment: Experiment) -> None:
    (record,) = entries(experiment, ".json")
    entry = json.loads(record.read_bytes())
    del entry["sha256"]
    record.write_text(json.dumps(entry), encoding="utf-8")


DAMAGES = [
    truncate,
    empty,
    remove_weights,
    flip_a_byte,
    write_no_json,
    write_a_list,
    drop_the_record,
    drop_a_field_of_the_record,
    drop_the_digest,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_made_again_after_a_warning(
    small: Sample,
    trainings: list[str],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Experiment], None],
) -> None:
    first = baseline(small())
    damage(small())
    with caplog.at_level(logging.WARNING, logger="quantexp.training.baseline"):
        second = baseline(small())
    assert len(trainings) == 2
    assert equal(first.model, second.model)
    (record,) = entries(small(), ".json")
    warnings = {message for message in caplog.messages if "is damaged" in message}
    assert len(warnings) == 1, "said each time the entry is looked at, always the same"
    assert str(record) in warnings.pop()
    assert equal(first.model, baseline(small()).model)
    assert len(trainings) == 2, "the entry is whole again"


def test_weights_of_another_shape_are_damage_and_leave_no_trace_in_the_model_that_is_trained_instead(
    small: Sample, trainings: list[str]
) -> None:
    first = baseline(small())
    (weights,), (record,) = entries(small(), ".safetensors"), entries(small(), ".json")
    foreign = {name: torch.full_like(tensor, 9.0) for name, tensor in first.model.state_dict().items()}
    foreign["layers.2.bias"] = torch.zeros(3)  # the last one: what comes before it fits
    weights.write_bytes(save(foreign))
    entry = json.loads(record.read_bytes())
    record.write_text(json.dumps({**entry, "sha256": hashlib.sha256(save(foreign)).hexdigest()}), encoding="utf-8")
    assert equal(first.model, baseline(small()).model)
    assert len(trainings) == 2


def test_weights_without_their_record_count_as_absent(
    small: Sample, trainings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = baseline(small())
    entries(small(), ".json")[0].unlink()  # as if the process had been killed between the two files
    with caplog.at_level(logging.WARNING, logger="quantexp.training.baseline"):
        second = baseline(small())
    assert len(trainings) == 2
    assert equal(first.model, second.model)
    assert caplog.messages == []


def test_a_full_disk_costs_a_warning_and_not_the_training(
    small: Sample, trainings: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="quantexp.training.baseline"):
        patch.setattr(quantexp.training.baseline, "write_atomically", full)
        trained = baseline(small())
    assert trained.training is not None
    assert trained.training.epochs == 1
    (warning,) = caplog.messages
    assert "cannot be kept" in warning
    assert "No space left on device" in warning
    assert entries(small(), ".json") == entries(small(), ".safetensors") == []
    assert equal(trained.model, baseline(small()).model)
    assert len(trainings) == 2


def test_a_cache_below_a_file_is_an_error_that_names_the_setting(small: Sample, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    with pytest.raises(CacheError, match=r"must be a folder .*file.* choose another with cache_dir=FOLDER"):
        baseline(small(cache_dir=str(file / "below")))


def test_a_cache_that_is_a_file_is_an_error_that_names_the_setting(small: Sample, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    with pytest.raises(CacheError, match="cache_dir=FOLDER"):
        baseline(small(cache_dir=str(file)))


# What is trained from the float model, or beside it


@pytest.mark.parametrize("quant", [Qat(), Qat(start=Start.scratch), Amp()], ids=["qat", "qat from scratch", "amp"])
def test_what_a_method_trains_is_trained_once(small: Sample, trainings: list[str], quant: Qat | Amp) -> None:
    experiment = small(quant=quant)
    data = experiment.load()
    first, second = apply(experiment), apply(experiment)
    assert len(trainings) == 2, "the float model and the method's own, each once"
    assert len(entries(experiment, ".json")) == 2
    with torch.no_grad():
        inputs = data.test.inputs(torch.arange(64))
        assert torch.equal(first(inputs), second(inputs))


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


# Weights to start from


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
    small(train=Train(checkpoint="runs:/nowhere")).check_inputs()  # whether it exists shows when it is read
    for checkpoint in ("runs:/one/model", "lost.pt", "0a" * 15):
        with pytest.raises(TrainingError, match=rf"there is none at {checkpoint}; .* or give a run as runs:/RUN_ID"):
            small(train=Train(checkpoint=checkpoint)).check_inputs()


@pytest.mark.parametrize("name", ["own.safetensors", "own.pt", "own.pth"])
def test_a_checkpoint_is_used_instead_of_training(
    small: Sample, trainings: list[str], tmp_path: Path, name: str
) -> None:
    data: TaskData = small().load()
    own = Mlp(hidden=[8]).build(data.features, data.classes)
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(own.state_dict(), path)
    else:
        torch.save(own.state_dict(), path)
    taken = small(train=Train(checkpoint=str(path))).baseline(data)
    assert equal(taken.model, own)
    assert taken.training is None
    assert taken.key == {"checkpoint": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert not taken.model.training
    assert trainings == []

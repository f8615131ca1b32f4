"""What is trained is trained once: the key of an entry, entries that are damaged, a cache that cannot be used."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import prune

import quantexp.training.cache
from quantexp.config import (
    Dynamic,
    Experiment,
    Lab,
    Mlp,
    Mnist,
    NoQuant,
    Optimizer,
    Paired,
    Server,
    Sst2,
    Static,
    Train,
)
from quantexp.mission import load
from quantexp.results import Training
from quantexp.state.copies import copied, materialized
from quantexp.system.errors import CacheError
from quantexp.training.baseline import Baseline, trained
from quantexp.training.cache import ModelCache
from tests.builders import training
from tests.runs import same_weights

Sample = Callable[..., Experiment]


def baseline(experiment: Experiment) -> Baseline:
    return trained(experiment, load(experiment))


def entries(experiment: Experiment, suffix: str) -> list[Path]:
    return sorted((Path(str(experiment.cache_dir)) / "models").glob(f"*{suffix}"))


def test_the_float_model_is_trained_once_and_then_loaded_bit_for_bit(small: Sample, trainings: list[str]) -> None:
    first = baseline(small())
    second = baseline(small())
    assert trainings == ["train mnist"]
    assert same_weights(first.model, second.model)
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
    assert not same_weights(before.model, after.model) or change == SHAPING["training threads"]
    baseline(small())
    baseline(small(**change))
    assert len(trainings) == 2, "both entries stand side by side"


def test_other_data_make_another_entry(small: Sample, trainings: list[str]) -> None:
    experiment = small()
    data = load(experiment)
    other = dataclasses.replace(data, fingerprint="0" * 64)
    assert trained(experiment, data).key != trained(experiment, other).key
    assert len(trainings) == 2


def test_the_split_that_is_measured_on_does_not_shape_the_weights(small: Sample, trainings: list[str]) -> None:
    keys = [baseline(small(validation=0.1, evaluation=split)).key for split in ("test", "validation")]
    assert keys[0] == keys[1]
    assert keys[0]["validation"] == 0.1
    assert baseline(small()).key["validation"] == 0
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
    assert same_weights(before.model, after.model)


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
    with caplog.at_level(logging.WARNING, logger="quantexp.training.cache"):
        second = baseline(small())
    assert len(trainings) == 2
    assert same_weights(first.model, second.model)
    (record,) = entries(small(), ".json")
    warnings = {message for message in caplog.messages if "is damaged" in message}
    assert len(warnings) == 1, "said each time the entry is looked at, always the same"
    assert str(record) in warnings.pop()
    assert same_weights(first.model, baseline(small()).model)
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
    assert same_weights(first.model, baseline(small()).model)
    assert len(trainings) == 2


def test_weights_without_their_record_count_as_absent(
    small: Sample, trainings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = baseline(small())
    entries(small(), ".json")[0].unlink()  # as if the process had been killed between the two files
    with caplog.at_level(logging.WARNING, logger="quantexp.training.cache"):
        second = baseline(small())
    assert len(trainings) == 2
    assert same_weights(first.model, second.model)
    assert caplog.messages == []


def test_a_full_disk_costs_a_warning_and_not_the_training(
    small: Sample, trainings: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="quantexp.training.cache"):
        patch.setattr(quantexp.training.cache, "write_atomically", full)
        made = baseline(small())
    assert made.training is not None
    assert made.training.epochs == 1
    (warning,) = caplog.messages
    assert "cannot be stored" in warning
    assert "No space left on device" in warning
    assert entries(small(), ".json") == entries(small(), ".safetensors") == []
    assert same_weights(made.model, baseline(small()).model)
    assert len(trainings) == 2


def test_a_cache_below_a_file_is_an_error_that_names_the_setting(small: Sample, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    with pytest.raises(CacheError, match=r"must be a writable folder, .*file.* choose another with cache_dir=FOLDER"):
        baseline(small(cache_dir=str(file / "below")))


def test_a_cache_that_is_a_file_is_an_error_that_names_the_setting(small: Sample, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    with pytest.raises(CacheError, match="cache_dir=FOLDER"):
        baseline(small(cache_dir=str(file)))


# Networks of the user


class Counting(nn.Module):
    """A pruned layer, and state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.steps = prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.5), {"seen": [0]}

    def get_extra_state(self) -> dict[str, list[int]]:
        return self.steps

    def set_extra_state(self, state: dict[str, list[int]]) -> None:
        self.steps = state

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


class Unstorable(Counting):
    def get_extra_state(self) -> object:
        return math.sqrt


def step(network: Counting) -> Training:
    network(torch.ones(2, 8)).sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.sub_(parameter.grad)
    network.steps = {"seen": [7]}
    return training()


def test_pruned_weights_and_extra_state_are_the_same_from_the_cache(tmp_path: Path) -> None:
    first, second = (ModelCache(tmp_path).get({"name": "own"}, Counting, step, "own").model for _ in range(2))
    assert first.steps == second.steps == {"seen": [7]}
    for network in (first, second, copied(first), copied(second)):
        assert torch.equal(network(torch.ones(2, 8)), first(torch.ones(2, 8)))
    plain, same = (materialized(copied(network)).layer.weight for network in (first, second))
    assert torch.equal(plain, same)
    assert int((plain == 0).sum()) == 16


def test_a_network_whose_extra_state_cannot_be_stored_is_trained_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        made = ModelCache(tmp_path).get({"name": "own"}, Unstorable, step, "own")
        assert made.training == training()
    assert caplog.text.count("this run continues, the next run trains again") == 2
    assert list(tmp_path.glob("*.json")) == []

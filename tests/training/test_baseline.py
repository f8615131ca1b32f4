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
from torch import Tensor, nn

import quantexp.quant.methods.amp
import quantexp.quant.methods.qat
import quantexp.training.baseline
import quantexp.training.loop
from quantexp.config import (
    Amp,
    Dynamic,
    Experiment,
    Lab,
    Local,
    Mlp,
    Mnist,
    NoQuant,
    Optimizer,
    Paired,
    Qat,
    Quant,
    Server,
    Sst2,
    Start,
    Static,
    Train,
)
from quantexp.mission import load
from quantexp.models.mlp import MLP
from quantexp.results import Training
from quantexp.storage import stored as storage
from quantexp.system.errors import CacheError, TrackingError, TrainingError
from quantexp.tasks.data import TaskData
from quantexp.tracking.store import open_store
from quantexp.training.baseline import Baseline, fill_from_checkpoint, trained

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
    return trained(experiment, load(experiment))


def entries(experiment: Experiment, suffix: str) -> list[Path]:
    return sorted((Path(str(experiment.cache_dir)) / "models").glob(f"*{suffix}"))


def equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def apply(experiment: Experiment) -> nn.Module:
    data = load(experiment)
    trained = trained(experiment, data)
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
    data = load(experiment)
    other = dataclasses.replace(data, fingerprint="0" * 64)
    assert trained(experiment, data).key != trained(experiment, other).key
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
    data = load(experiment)
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


# The weights of a run


@pytest.fixture
def recorded(small: Sample, workdir: Path, tmp_path: Path) -> Callable[..., tuple[str, Path]]:
    """Store what a method makes of the float model as the model of a run; its id, and the folder in the store."""

    def record(quant: Quant, precision: str | None = None) -> tuple[str, Path]:
        experiment = small(quant=quant, precision=precision)
        data = load(experiment)
        model = quant.apply(trained(experiment, data), data, experiment.train, str(experiment.precision)).model
        store = open_store(Local())
        run_id = store.client.create_run(store.experiment_id).info.run_id
        storage.save(tmp_path / "model", model, storage.Recipe.of(experiment, data))
        store.client.log_artifacts(run_id, str(tmp_path / "model"), "model")
        return run_id, workdir / "mlartifacts" / run_id / "artifacts" / "model"

    return record


@pytest.mark.parametrize("reference", ["{}", "runs:/{}"])
@pytest.mark.parametrize("quant", [NoQuant(), Amp()], ids=["none", "amp"])
def test_the_float32_weights_of_a_run_are_used_instead_of_training(
    small: Sample,
    trainings: list[str],
    recorded: Callable[..., tuple[str, Path]],
    quant: Quant,
    reference: str,
) -> None:
    run_id, folder = recorded(quant)
    trainings.clear()
    taken = baseline(small(train=Train(checkpoint=reference.format(run_id))))
    weights = storage.float_weights(folder)
    assert all(torch.equal(weights[name], value) for name, value in taken.model.state_dict().items())
    assert taken.training is None
    assert taken.key == {"checkpoint": hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()}
    assert trainings == []


@pytest.mark.parametrize(("quant", "precision"), [(Dynamic(), "int8"), (NoQuant(), "bf16"), (Static(), "int8")])
def test_a_run_whose_weights_are_not_float32_is_refused_in_words(
    small: Sample, recorded: Callable[..., tuple[str, Path]], quant: Quant, precision: str
) -> None:
    run_id, _ = recorded(quant, precision)
    told = f"quant=none with fp32 and quant=amp leave them; got those of quant={quant.name} with '{precision}'"
    with pytest.raises(TrainingError, match=f"train.checkpoint={run_id}: .*{told}"):
        baseline(small(train=Train(checkpoint=f"runs:/{run_id}")))


def test_a_run_of_another_network_is_an_error_that_names_the_layer(
    small: Sample, recorded: Callable[..., tuple[str, Path]]
) -> None:
    run_id, _ = recorded(NoQuant())
    with pytest.raises(TrainingError, match=rf"train.checkpoint={run_id} does not fit .*expected \(9, 400\), found"):
        baseline(small(train=Train(checkpoint=run_id), model=Mlp(hidden=[9])))


def test_a_run_that_is_not_there_is_told_before_anything_is_trained(
    small: Sample, trainings: list[str], workdir: Path
) -> None:
    with pytest.raises(TrackingError, match="no model of run nowhere can be read"):
        baseline(small(train=Train(checkpoint="runs:/nowhere")))
    assert trainings == []


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


# The user's own weights


@pytest.fixture
def network() -> MLP:
    return MLP(4, [3], 2)


@pytest.mark.parametrize("name", ["own.safetensors", "own.pt", "own.pth"])
def test_a_checkpoint_is_used_instead_of_training(
    small: Sample, trainings: list[str], tmp_path: Path, name: str
) -> None:
    data: TaskData = load(small())
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


def test_a_checkpoint_that_is_missing_is_an_error_that_names_it(network: MLP, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train\.checkpoint must be .*, there is no file .*gone\.pt"):
        fill_from_checkpoint(network, tmp_path / "gone.pt")


def test_a_checkpoint_that_is_a_folder_is_an_error(network: MLP, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no file"):
        fill_from_checkpoint(network, tmp_path)


def test_a_checkpoint_of_another_kind_is_an_error_that_names_the_kinds(network: MLP, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    path.write_bytes(b"weights")
    with pytest.raises(TrainingError, match=r"must be a \.safetensors file or a \.pt state dict, got own\.onnx"):
        fill_from_checkpoint(network, path)


def test_a_checkpoint_of_another_model_is_an_error_that_names_layer_expected_and_found(
    network: MLP, tmp_path: Path
) -> None:
    path = tmp_path / "own.pt"
    torch.save({**network.state_dict(), "layers.0.weight": torch.zeros(3, 5), "extra": torch.zeros(2)}, path)
    with pytest.raises(TrainingError) as failure:
        fill_from_checkpoint(network, path)
    assert "layers.0.weight: expected (3, 4), found (3, 5)" in str(failure.value)
    assert "extra: expected None, found (2,)" in str(failure.value)
    assert "layers.2" not in str(failure.value), "layers that fit are not named"


def test_a_checkpoint_that_lacks_a_layer_is_an_error_that_names_it(network: MLP, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    state = network.state_dict()
    del state["layers.2.bias"]
    save_file(state, path)
    with pytest.raises(TrainingError, match=r"layers\.2\.bias: expected \(2,\), found None"):
        fill_from_checkpoint(network, path)


class Payload:
    """What code in a pickle does: unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def test_a_checkpoint_with_code_is_refused_and_the_code_does_not_run(network: MLP, tmp_path: Path) -> None:
    path, marker = tmp_path / "own.pt", tmp_path / "marker"
    torch.save({**network.state_dict(), "payload": Payload(marker)}, path)
    with pytest.raises(TrainingError, match=r"is not read as weights \(it holds more than weights"):
        fill_from_checkpoint(network, path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file was harmless after all, so the refusal proves nothing"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["own.safetensors", "own.pt"])
def test_a_checkpoint_that_is_not_finite_is_an_error_that_names_the_layer(
    network: MLP, tmp_path: Path, name: str, value: float
) -> None:
    path = tmp_path / name
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state["layers.2.weight"][1, 2] = value
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    with pytest.raises(TrainingError, match=r"finite floating-point numbers, layers\.2\.weight is not"):
        fill_from_checkpoint(network, path)


@pytest.mark.parametrize(
    "content", [[1.0], torch.zeros(2), {"state_dict": {"a": torch.zeros(1)}}], ids=["list", "tensor", "nested"]
)
def test_a_checkpoint_that_is_no_state_dict_is_an_error(network: MLP, tmp_path: Path, content: object) -> None:
    path = tmp_path / "own.pt"
    torch.save(content, path)
    with pytest.raises(TrainingError, match="must hold a state dict"):
        fill_from_checkpoint(network, path)


def quantized(weight: Tensor) -> Tensor:
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


@pytest.mark.parametrize("kind", [quantized, Tensor.to_sparse], ids=["quantized", "sparse"])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_a_checkpoint_of_weights_that_are_no_plain_tensors_is_an_error(
    network: MLP, tmp_path: Path, kind: Callable[[Tensor], Tensor]
) -> None:
    path = tmp_path / "own.pt"
    torch.save({**network.state_dict(), "layers.0.weight": kind(network.state_dict()["layers.0.weight"])}, path)
    with pytest.raises(TrainingError, match=r"layers\.0\.weight"):
        fill_from_checkpoint(network, path)


@pytest.mark.parametrize(
    ("count", "fits"), [(torch.tensor(7), True), (torch.tensor(7.0), True), (torch.tensor(1, dtype=torch.int8), False)]
)
def test_a_count_in_a_checkpoint_is_a_count_in_the_network(tmp_path: Path, count: Tensor, fits: bool) -> None:
    normed = nn.Sequential(nn.BatchNorm1d(4))  # counts its batches
    save_file({**normed.state_dict(), "0.num_batches_tracked": count}, tmp_path / "own.safetensors")
    if fits:
        fill_from_checkpoint(normed, tmp_path / "own.safetensors")
        assert int(normed.state_dict()["0.num_batches_tracked"]) == 7
    else:
        with pytest.raises(TrainingError, match="num_batches_tracked is not"):
            fill_from_checkpoint(normed, tmp_path / "own.safetensors")


@pytest.mark.parametrize("length", [0, 1, 5, 100, 1000])
@pytest.mark.parametrize("name", ["own.safetensors", "own.pt"])
def test_a_checkpoint_that_is_cut_off_is_an_error_that_names_it(
    network: MLP, tmp_path: Path, name: str, length: int
) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file({**network.state_dict(), "padding": torch.zeros(300)}, path)
    else:
        torch.save(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(TrainingError, match=name.replace(".", r"\.")):
        fill_from_checkpoint(network, path)


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02.", b"\x80\x02j\x01\x00\x00\x00.", b"\x80\x02r"],
    ids=["empty stack", "no such memo", "cut in an argument"],
)
def test_a_checkpoint_that_is_a_damaged_pickle_is_an_error(network: MLP, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.pt"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"own\.pt"):
        fill_from_checkpoint(network, path)

"""What names trained weights in the cache: every setting that affects weights, and none that does not."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from torch import nn

from quantexp import InputSpec
from quantexp.config import (
    NOTHING,
    OPTIONS,
    RESULT,
    WEIGHTS,
    Amp,
    Arrays,
    Audio,
    Bert,
    CustomModel,
    CustomTask,
    DataSource,
    Dynamic,
    Experiment,
    FakeQuant,
    Images,
    Lenet5,
    Lstm,
    Mlp,
    Mnist,
    NoQuant,
    Option,
    Qat,
    Quant,
    Server,
    Settings,
    Sst2,
    Static,
    Study,
    SweepSettings,
    Text,
    Torchvision,
    Train,
    Transformers,
    Wav2Vec2,
)
from quantexp.mission import load
from quantexp.results import Training
from quantexp.system.errors import ConfigError
from quantexp.training.baseline import trained
from quantexp.training.cache import ModelCache, Trained
from tests.runs import quantized
from tests.tasks.test_tokens import tokenizer


class Points:
    """A task of one's own: two classes of points."""

    gives = "features"

    def __init__(self, size: float = 0.0) -> None:
        self.inputs = (InputSpec("point", (4,)),)
        self.size = size

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(20) % 2
        return labels[:, None] + self.size + torch.zeros(20, 4), labels

    test = train


class PointsToo(Points):
    """The same under another name."""


class Network(nn.Linear):
    """A network of one's own."""

    def __init__(self, inputs: int, classes: int, size: int = 3) -> None:
        super().__init__(inputs, classes)


class NetworkToo(Network):
    """The same under another name."""


class Asked(BaseException):
    """The cache was asked for an entry; no `except Exception` holds it."""

    def __init__(self, key: Mapping[str, Any]) -> None:
        self.key = key


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Callable[[Experiment, str], Mapping[str, Any]]:
    """Return the key by which an experiment asks for its float network, or what a method trains; trains nothing."""

    def ask(experiment: Experiment, kind: str = "float") -> Mapping[str, Any]:
        def get(
            self: ModelCache, key: Mapping[str, Any], build: Callable[[], nn.Module], train: object, what: str
        ) -> Trained:
            if key["kind"] == kind:
                raise Asked(key)
            return Trained(build().eval(), Training(1.0, 1, "cpu", 1, "here", (1,), (0.5,)))

        monkeypatch.setattr(ModelCache, "get", get)
        try:
            if kind == "float":
                return trained(experiment, load(experiment)).key  # without labels nothing is asked for
            quantized(experiment)
        except Asked as asked:
            return asked.key
        raise AssertionError("the cache was not asked")

    return ask


# Settings and their changes


def candidates(kind: Any, value: Any, field: dataclasses.Field[Any]) -> Iterator[Any]:
    """Yield other values of the type of a setting; not each of them fits the others."""
    kinds = [one for one in get_args(kind) if one is not NoneType] if get_origin(kind) is not list else [kind]
    kind = kinds[0] if kinds else kind
    bounds = [field.metadata[name] for name in ("at_least", "above", "at_most")]
    low, high = next((one for one in bounds[:2] if one is not None), 0), bounds[2]
    if field.name in ("tokenizer", "path"):
        yield str(files() / "second")
    elif field.name in ("text", "label"):
        yield "else"  # a column that there is
    elif field.name == "network":
        yield "squeezenet1_1"
    elif field.name == "target":
        yield f"{value}Too"
    elif kind == list[float]:
        yield [0.25]
    elif get_origin(kind) is list:
        given = list(value or [])
        yield [*given, "layers.0" if str in get_args(kind) else max(8, int(low))]
        yield from ([name] for name in ("compiled", "static"))
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield from (member for member in kind if member not in (value, DataSource.full))  # it is not here
    elif kind is bool:
        yield from (one for one in (True, False) if one is not value)
    elif kind is int:
        known = low if value is None else value
        yield from (one for one in (known + 1, known + 2, known - 1, known - 2, 64) if high is None or one <= high)
    elif kind is float:
        known = value or low
        yield from (one for one in (known + 1, known / 2, (known + (high or known)) / 2, 0.25) if one != value)
    elif kind is str:
        yield from ("http://other:1", "fp16", "bf16", "else")
    elif field.name == "batch_size":
        yield [3]
    elif field.name == "objective":
        yield ["size"]
    elif field.name == "arguments":
        yield {"size": 1}
    else:
        raise AssertionError(f"a value of another type is needed for {kind}")


REQUIRED: dict[type[Settings], dict[str, Any]] = {
    CustomTask: {"target": f"{__name__}.Points"},
    CustomModel: {"target": f"{__name__}.Network"},
    Torchvision: {"network": "googlenet"},  # its inputs can be rescaled
    Server: {"uri": "http://host:5000"},
    Transformers: {"path": "first"},  # below `files()`
    Static: {"calibration_examples": 7},  # there are fewer to test than to train on
    FakeQuant: {"calibration_examples": 7, "train": True},
}
FIXED = {  # settings that have one value
    ("WeightOnly", "flow"),
    ("WeightOnly", "engine"),
    ("Local", "uri"),
    ("Lstm", "predicts"),  # the other value needs examples without labels
}


@cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder until the end of the process."""
    return tempfile.TemporaryDirectory(prefix="keys-")


@cache
def files() -> Path:
    """A folder with data for each task of the user's own files, and two folders of Hugging Face."""
    folder, labels = Path(scratch().name), np.arange(20) % 2
    for number, label in enumerate(labels.tolist()):
        for split in ("train", "test"):
            for task in ("images", "audio"):
                (folder / task / split / f"class{label}").mkdir(parents=True, exist_ok=True)
            grey = np.full((8, 8), 10 * number, np.uint8)
            Image.fromarray(grey).save(folder / "images" / split / f"class{label}" / f"{number}.png")
            sound = np.full(900, 100 * number, np.int16)
            wavfile.write(folder / "audio" / split / f"class{label}" / f"{number}.wav", 16000, sound)
    rows = "".join(f"film {number},{label},{'xy'[label]}\n" for number, label in enumerate(labels.tolist()))
    for task in ("text", "arrays"):
        (folder / task).mkdir()
    for split in ("train", "test"):
        (folder / "text" / f"{split}.csv").write_text(f"text,label,else\n{rows}")
        values = np.random.default_rng(0).normal(size=(20, 800)).astype("float32")
        np.savez(folder / "arrays" / f"{split}.npz", x=values, y=labels)
    for number, name in enumerate(("first", "second")):
        described = {"model_type": "bert", "vocab_size": 5 + number, "hidden_size": 8, "num_hidden_layers": 1}
        described |= {"num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 64}
        (tokenizer(folder / name) / "config.json").write_text(json.dumps(described))
        content = (folder / name / "tokenizer.json").read_text()
        (folder / name / "tokenizer.json").write_text(content + " " * number)
    return folder


def context(cls: type[Settings], name: str) -> dict[str, Any]:
    """Parts of an experiment in which a setting can be changed."""
    parts: dict[str, Any] = {"data": "sample", "quant": NoQuant()}
    if cls in (Mnist, Lenet5, CustomModel) or (cls is Experiment and name in ("data", "seed", "validation")):
        parts["model"] = Mlp(hidden=[8])
    if cls in (Lstm, Bert, Transformers):
        parts["task"] = Sst2(vocabulary=50, length=8)
    if cls is Wav2Vec2:
        parts |= {"task": Arrays(), "data": "full", "data_dir": str(files() / "arrays")}
    if cls in (Images, Text, Audio, Arrays):
        parts |= {"data": "full", "data_dir": str(files() / cls.name), "model": Mlp(hidden=[8])}
    if issubclass(cls, Study):
        parts["quant"] = Dynamic()
    if name == "hidden":
        parts["model"] = Mlp()
    if name == "precision":
        parts["quant"] = Dynamic()
    if name == "evaluation":
        parts["validation"] = 0.1
    if cls is CustomTask:
        parts["data"] = "full"
    return parts


def built(cls: type[Settings], **values: Any) -> Experiment:
    """Return an experiment with these values of this option, or of its own."""
    parts = context(cls, next(iter(values), ""))
    if cls is Experiment:
        return Experiment(**{**parts, **values})
    given = {**REQUIRED.get(cls, {}), **values}
    if given.get("path") == "first":
        given["path"] = str(files() / "first")
    return Experiment(**{**parts, cls.group: cls(**given)})


def changed(cls: type[Settings], field: dataclasses.Field[Any]) -> Iterator[Experiment]:
    """Yield experiments that differ from `built(cls)` in this setting."""
    settings = built(cls, **{field.name: before(cls, field)})
    value = getattr(settings if cls is Experiment else getattr(settings, cls.group), field.name)
    for other in candidates(get_type_hints(cls)[field.name], value, field):
        try:
            yield built(cls, **{field.name: other})
        except ConfigError:
            continue


def before(cls: type[Settings], field: dataclasses.Field[Any]) -> Any:
    """Return the value of a setting that is not changed."""
    required = {**REQUIRED.get(cls, {}), **(context(cls, field.name) if cls is Experiment else {})}
    if field.name in required:
        return required[field.name]
    return field.default_factory() if field.default is dataclasses.MISSING else field.default


@cache
def every_setting() -> list[tuple[type[Settings], dataclasses.Field[Any]]]:
    classes: tuple[type[Settings], ...] = (*OPTIONS, Experiment, SweepSettings)
    return [(cls, field) for cls in classes for field in dataclasses.fields(cls) if "affects" in field.metadata]


def cases(*which: object, without: tuple[type[Option], ...] = (), untold: Container[tuple[str, str]] = ()) -> list[Any]:
    return [
        pytest.param(cls, field, id=f"{cls.__name__}.{field.name}")
        for cls, field in every_setting()
        if cls.affected_by(field.name) in which and not issubclass(cls, without)
        if (cls.__name__, field.name) not in untold
        if field.name != "checkpoint"  # it needs a file: tests/training/test_baseline.py
    ]


Asking = Callable[..., Mapping[str, Any]]


@pytest.mark.parametrize(("cls", "field"), cases(WEIGHTS, RESULT, NOTHING))
def test_every_setting_can_be_changed_here(cls: type[Settings], field: dataclasses.Field[Any]) -> None:
    assert bool(list(changed(cls, field))) is ((cls.__name__, field.name) not in FIXED)


@pytest.mark.parametrize(("cls", "field"), cases(WEIGHTS, without=(Quant,), untold=FIXED))
def test_what_affects_weights_is_part_of_the_key_of_the_float_network(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, cls: type[Settings], field: dataclasses.Field[Any]
) -> None:
    if field.name == "device":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    first = asking(built(cls, **{field.name: before(cls, field)}))
    assert any(asking(other) != first for other in changed(cls, field))


@pytest.mark.parametrize(("cls", "field"), cases(RESULT, NOTHING))
def test_what_does_not_affect_weights_is_no_part_of_the_key_of_the_float_network(
    asking: Asking, cls: type[Settings], field: dataclasses.Field[Any]
) -> None:
    first = asking(built(cls, **{field.name: before(cls, field)}))
    assert all(asking(experiment) == first for experiment in changed(cls, field))


@pytest.mark.parametrize("field", [pytest.param(field, id=field.name) for field in dataclasses.fields(Qat)])
def test_every_setting_of_qat_is_part_of_the_key_of_what_it_trains_and_not_of_the_float_networks(
    asking: Asking, field: dataclasses.Field[Any]
) -> None:
    experiment = built(Qat, **{field.name: before(Qat, field)})
    first = asking(experiment, "qat")
    assert any(asking(other, "qat") != first for other in changed(Qat, field))
    float_key = asking(experiment)
    assert all(asking(other) == float_key for other in changed(Qat, field))


@pytest.mark.parametrize("field", [pytest.param(field, id=field.name) for field in dataclasses.fields(FakeQuant)])
def test_every_setting_of_fake_quant_is_part_of_the_key_of_what_it_trains_and_not_of_the_float_networks(
    asking: Asking, field: dataclasses.Field[Any]
) -> None:
    experiment = built(FakeQuant, **{field.name: before(FakeQuant, field)})
    float_key = asking(experiment)
    assert all(asking(other) == float_key for other in changed(FakeQuant, field))
    if field.name != "train":  # without, nothing is trained
        first = asking(experiment, "fake_quant")
        assert any(asking(other, "fake_quant") != first for other in changed(FakeQuant, field))


def test_the_precision_of_amp_is_part_of_the_key_of_what_it_trains(asking: Asking) -> None:
    bf16, fp16 = (Experiment(quant=Amp(), precision=name, data="sample") for name in ("bf16", "fp16"))  # type: ignore[arg-type]
    assert asking(bf16, "amp") != asking(fp16, "amp")
    assert asking(bf16) == asking(fp16)


@pytest.mark.parametrize(("quant", "kind"), [(Qat(), "qat"), (Amp(), "amp")])
@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"validation": 0.1}, {"train": Train(batch_size=32)}, {"model": Mlp(hidden=[9])}],
    ids=lambda change: next(iter(change)),
)
def test_what_shapes_the_float_network_shapes_what_is_trained_beside_it(
    asking: Asking, quant: Quant, kind: str, change: dict[str, Any]
) -> None:
    parts = {"quant": quant, "data": "sample", "model": Mlp(hidden=[8])}
    assert asking(Experiment(**parts), kind) != asking(Experiment(**{**parts, **change}), kind)


def test_values_are_resolved_before_they_are_part_of_a_key(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(**parts: Any) -> Mapping[str, Any]:
        return asking(Experiment(data="sample", quant=NoQuant(), **parts))  # type: ignore[arg-type]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("quantexp.training.loop.usable_cores", lambda: 3)
    assert of(train=Train()) == of(train=Train(device="cpu", threads=3))  # type: ignore[arg-type]
    assert of(train=Train()) != of(train=Train(threads=2))
    assert of(model=Mlp()) == of(model=Mlp(hidden=[1024, 1024]))
    assert of(task=Mnist()) == of(task=Mnist(crop=20))


def test_layers_are_matched_before_they_are_part_of_the_key_of_qat(asking: Asking) -> None:
    def of(**settings: Any) -> Mapping[str, Any]:
        experiment = Experiment(data="sample", model=Mlp(hidden=[8]), quant=Qat(**settings))  # type: ignore[arg-type]
        return asking(experiment, "qat")

    assert of(include=["layers.0"]) == of(exclude=["layers.2"])
    assert of(include=["layers.*"]) == of()
    assert of(exclude=["layers.2"]) != of(exclude=["layers.0"])

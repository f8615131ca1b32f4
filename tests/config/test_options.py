"""Each option checks its own values, and an experiment the combination of its options."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from enum import Enum
from functools import partial
from typing import Any, get_args, get_type_hints

import pytest

from quantexp.config import (
    METHODS,
    OPTIONS,
    Affine,
    Amp,
    Bert,
    CalibrationSplit,
    Criterion,
    CustomModel,
    CustomTask,
    DataSource,
    Device,
    Dynamic,
    Engine,
    Experiment,
    FakeQuant,
    Family,
    Goal,
    Granularity,
    Kind,
    Lab,
    Lenet5,
    Local,
    Lstm,
    Mlp,
    Mnist,
    Model,
    NoQuant,
    Observer,
    Optimizer,
    Option,
    Paired,
    Pooling,
    Predicts,
    Qat,
    Quant,
    Scheme,
    Search,
    Sensitivity,
    Server,
    Sst2,
    Start,
    Static,
    Task,
    Torchvision,
    Train,
    Transformers,
    Wav2Vec2,
    WeightOnly,
)
from quantexp.config.option import names_of
from quantexp.system.errors import ConfigError
from quantexp.tasks import mnist

EVERY_OPTION: tuple[type[Option], ...] = (*OPTIONS, Experiment)


def build(cls: type[Option], **values: Any) -> Option:
    """Build an option; what it cannot do without is given to it."""
    own = {"target": "package.module.Class"}
    required = {
        Server: {"uri": "http://localhost:5000"},
        CustomModel: own,
        CustomTask: own,
        Transformers: {"path": "folder"},
        Bert: {"heads": 1},
        Wav2Vec2: {"heads": 1},
        FakeQuant: {"train": True},
    }
    return cls(**{**required.get(cls, {}), **values})


def path_of(cls: type[Option], field: str) -> str:
    return f"{cls.group}.{field}" if cls.group else field


def numeric_fields() -> Iterator[tuple[type[Option], dataclasses.Field[Any], type]]:
    """Yield each field that takes a number or a list of them, with the type of the number."""
    for cls in EVERY_OPTION:
        types = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            parts = flattened(types[field.name])
            for number in (int, float):
                if number in parts:
                    yield cls, field, number


def flattened(kind: Any) -> list[Any]:
    """Return the types that a type is made of: `list[int] | None` gives list[int], int and None."""
    return [kind, *(part for one in get_args(kind) for part in flattened(one))]


def bounds() -> Iterator[Any]:
    """Yield each bound of each field as a case: the option, the field, a value on either side, the rule."""
    for cls, field, number in numeric_fields():
        next_up, next_down = (partial(beside, number, direction=direction) for direction in (+1, -1))
        low, high, above = (field.metadata[name] for name in ("at_least", "at_most", "above"))
        where, name = path_of(cls, field.name), f"{cls.__name__}.{field.name}"
        if low is not None:
            yield pytest.param(cls, field.name, low, next_down(low), f"{where} must be at least ", id=f"{name}-low")
        if high is not None:
            yield pytest.param(cls, field.name, high, next_up(high), f"{where} must be at most ", id=f"{name}-high")
        if above is not None:
            yield pytest.param(cls, field.name, next_up(above), above, f"{where} must be above ", id=f"{name}-above")


def beside(number: type, value: float, direction: int) -> float:
    """Return the neighbour of `value` among the numbers of this type."""
    return int(value + direction) if number is int else math.nextafter(value, math.inf * direction)


def as_given(cls: type[Option], field: str, number: float) -> Any:
    """Return the number as the field takes it: in a list if it holds a list, of a shape with another axis."""
    if (cls, field) == (Affine, "shape"):
        return [number, 2]
    return [number] if {list[int], list[float]} & set(flattened(get_type_hints(cls)[field])) else number


@pytest.mark.parametrize(
    "field", [pytest.param(field, id=f"{cls.__name__}.{field.name}") for cls, field, _ in numeric_fields()]
)
def test_every_number_that_an_option_takes_is_bounded_from_below(field: dataclasses.Field[Any]) -> None:
    assert field.metadata["at_least"] is not None or field.metadata["above"] is not None


@pytest.mark.parametrize(("cls", "field", "inside", "outside", "rule"), list(bounds()))
def test_a_value_just_outside_a_bound_is_refused_with_path_rule_and_value(
    cls: type[Option], field: str, inside: float, outside: float, rule: str
) -> None:
    build(cls, **{field: as_given(cls, field, inside)})  # the last value that is allowed

    with pytest.raises(ConfigError) as error:
        build(cls, **{field: as_given(cls, field, outside)})

    [fault] = error.value.faults
    assert fault.startswith(rule)
    assert fault.endswith(f", got {outside}")


@pytest.mark.parametrize(
    ("build_it", "fault"),
    [
        (lambda: Mnist(crop=1025), "task.crop must be at most 1024, got 1025"),
        (lambda: Mnist(channels=2), "task.channels must be 1 or 3, got 2"),
        (lambda: Mnist(crop=3), "task.crop must be at least 4, got 3"),
        (lambda: Qat(freeze_after=0), "quant.freeze_after must be above 0, got 0"),
        (lambda: Paired(placements=1001), "benchmark.placements must be at most 1000, got 1001"),
        (lambda: Mlp(hidden=[8, 0, 8]), "model.hidden must be at least 1, got 0"),
        (lambda: Experiment(seed=-1), "seed must be at least 0, got -1"),
    ],
)
def test_a_fault_is_one_sentence(build_it: Any, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_it()
    assert error.value.faults == (fault,)
    assert str(error.value) == fault


def test_a_large_bound_is_named_with_all_its_digits() -> None:
    with pytest.raises(ConfigError, match=f"^seed must be at most {2**32}, got {2**32 + 1}$"):
        Experiment(seed=2**32 + 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("cls", "field"),
    [
        pytest.param(cls, field.name, id=f"{cls.__name__}.{field.name}")
        for cls, field, kind in numeric_fields()
        if kind is float
    ],
)
def test_a_number_that_is_not_finite_is_refused(cls: type[Option], field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{path_of(cls, field)} must be a finite number, got {value}$"):
        build(cls, **{field: as_given(cls, field, value)})


NAMED = [
    (Dynamic, "weights", Granularity),
    (Static, "engine", Engine),
    (Static, "weights", Granularity),
    (Static, "observer", Observer),
    (Static, "activations", Scheme),
    (Static, "calibration", CalibrationSplit),
    (FakeQuant, "weights", Granularity),
    (FakeQuant, "calibration", CalibrationSplit),
    (Dynamic, "engine", Engine),
    (Qat, "engine", Engine),
    (Qat, "weights", Granularity),
    (Qat, "activations", Scheme),
    (Qat, "start", Start),
    (Lstm, "predicts", Predicts),
    (Bert, "family", Family),
    (Transformers, "pooling", Pooling),
    (Train, "optimizer", Optimizer),
    (Train, "device", Device),
    (Affine, "granularity", Granularity),
    (Search, "objective", Goal),
    (Sensitivity, "by", Criterion),
    (Experiment, "data", DataSource),
]


def test_every_field_that_takes_a_name_is_tested_here() -> None:
    found = {
        (cls, name, names_of(kind))
        for cls in EVERY_OPTION
        for name, kind in get_type_hints(cls).items()
        if name in {field.name for field in dataclasses.fields(cls)} and names_of(kind)
        if name != "flow"  # a method takes some of them only; tests/config/test_pairs.py
        if (cls, name) != (WeightOnly, "engine")  # it takes none
        if (cls, name) != (Experiment, "evaluation")  # one of them needs a split; tests/tasks/test_validation.py
    }
    assert found == set(NAMED)


@pytest.mark.parametrize(("cls", "field", "kind"), NAMED)
def test_a_name_given_as_text_becomes_a_member(cls: type[Option], field: str, kind: type[Enum]) -> None:
    for member in kind:
        assert getattr(build(cls, **{field: str(member.value)}), field) is member


@pytest.mark.parametrize(("cls", "field", "kind"), NAMED)
def test_a_wrong_name_is_refused_with_the_possible_ones(cls: type[Option], field: str, kind: type[Enum]) -> None:
    with pytest.raises(ConfigError) as error:
        build(cls, **{field: "nonsense"})
    names = ", ".join(member.value for member in kind)
    assert error.value.faults == (f"{path_of(cls, field)} must be one of {names}, got 'nonsense'",)


def test_an_option_reports_all_its_faults_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Train(epochs=0, batch_size=-3, optimizer="sdg")  # type: ignore[arg-type]
    assert error.value.faults == (
        "train.optimizer must be one of adam, sgd, got 'sdg'",
        "train.epochs must be at least 1, got 0",
        "train.batch_size must be at least 1, got -3",
    )
    assert str(error.value).splitlines() == list(error.value.faults)


@pytest.mark.parametrize(
    ("method", "first"), [(NoQuant, "fp32"), (Dynamic, "int8"), (Static, "int8"), (Qat, "int8"), (Amp, "bf16")]
)
def test_a_method_chooses_its_first_precision_when_none_is_given(method: type[Quant], first: str) -> None:
    assert Experiment(quant=method()).precision == first


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_each_of_its_precisions(method: type[Quant]) -> None:
    for precision in method.precisions:
        assert Experiment(quant=method(), precision=precision).precision == precision


def test_the_pairs_of_method_and_precision_are_these() -> None:
    assert {method.name: set(method.precisions) for method in METHODS} == {
        "none": {"fp32", "bf16", "fp16"},
        "dynamic": {"int8", "fp16"},
        "weight_only": {"int8", "int4"},
        "static": {"int8"},
        "qat": {"int8"},
        "amp": {"bf16", "fp16"},
        "fake_quant": {"simulated"},
    }


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        (method, precision)
        for method in METHODS
        for precision in ("fp32", "bf16", "fp16", "int8", "int4")
        if precision not in method.precisions
    ],
)
def test_an_impossible_pair_is_refused_with_all_possible_pairs(method: type[Quant], precision: str) -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(quant=method(), precision=precision)
    [fault] = error.value.faults
    assert fault.startswith(f"precision={precision} is not supported by quant={method.name}, which has ")
    assert fault.endswith(
        "All pairs: quant=none: fp32, bf16, fp16; quant=dynamic: int8, fp16; quant=weight_only: int8, int4; "
        "quant=static: int8; quant=qat: int8; quant=amp: bf16, fp16; quant=fake_quant: simulated"
    )


@pytest.mark.parametrize("number", [8, "8", "16"])
def test_a_bare_number_is_no_precision(number: Any) -> None:
    with pytest.raises(ConfigError, match=f"^precision is a name such as int8, got the bare number {number}$"):
        Experiment(precision=number)


@pytest.mark.parametrize(("given", "measured"), [(64, [64]), ([64], [64]), ([8, 1], [8, 1]), ([65536], [65536])])
def test_batch_sizes_become_a_list_in_the_order_given(given: Any, measured: list[int]) -> None:
    assert Experiment(batch_size=given).batch_size == measured


RULE = "batch_size must be a positive integer or a list of them, such as 64 or [1,64], got "


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (0, RULE + "0 in [0]"),
        (-1, RULE + "-1 in [-1]"),
        (True, RULE + "True"),
        ("x", RULE + "'x'"),
        (2.5, RULE + "2.5"),
        (None, RULE + "None"),
        ([], RULE + "[]"),
        ([1, 0], RULE + "0 in [1, 0]"),
        ([1, True], RULE + "True in [1, True]"),
        ([1, 2.5], RULE + "2.5 in [1, 2.5]"),
        ([8, "x"], RULE + "'x' in [8, 'x']"),
        ([1, 1], "batch_size must name each size once, got [1, 1]"),
        ([1, 65537], "batch_size must be at most 65536, got 65537"),
    ],
    ids=str,
)
def test_batch_sizes_that_cannot_be_measured_are_refused(given: Any, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(batch_size=given)
    assert error.value.faults == (fault,)


def test_an_experiment_collects_every_fault_of_its_combination() -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(
            quant=Qat(start=Start.scratch),
            train=Train(checkpoint="mine.pt"),
            data="tiny",  # type: ignore[arg-type]
            seed=-1,
            precision="fp32",
            batch_size=0,
        )
    starts = ("data must be one of", "seed must be", "precision=fp32", "batch_size must be", "quant.start=scratch")
    assert len(error.value.faults) == len(starts)
    for fault, start in zip(error.value.faults, starts, strict=True):
        assert fault.startswith(start)


@pytest.mark.parametrize(("task", "hidden"), [(Mnist(), [1024, 1024]), (Sst2(), [256, 256, 256]), (Mnist([7]), [7])])
def test_a_network_without_widths_takes_those_of_its_task(task: Mnist | Sst2, hidden: list[int]) -> None:
    model = Mlp()
    experiment = Experiment(task=task, model=model)
    assert isinstance(experiment.model, Mlp)
    assert experiment.model.hidden == hidden
    assert experiment.model.hidden is not task.hidden  # else a change of one would change the other
    assert model.hidden is None  # the model that was handed in can serve the next task


@pytest.mark.parametrize("hidden", [[3], []])
def test_widths_given_to_a_network_are_kept(hidden: list[int]) -> None:
    assert Experiment(model=Mlp(hidden=hidden)).model == Mlp(hidden=hidden)


@pytest.mark.parametrize(
    ("model", "crop", "taken"),
    [
        (Mlp(), None, 20),
        (Lenet5(), None, 32),
        (Torchvision(), None, 32),
        (Mlp(), 28, 28),
        (Mlp(), 32, 32),
        (Lenet5(), 32, 32),
        (Torchvision(), 96, 96),
    ],
)
def test_a_crop_that_is_left_open_is_that_of_the_network(model: Model, crop: int | None, taken: int) -> None:
    task = Mnist(crop=crop)
    experiment = Experiment(task=task, model=model)
    assert experiment.task == Mnist(crop=taken, channels=3 if isinstance(model, Torchvision) else 1)
    assert experiment.task.size == taken
    assert task.crop == crop  # the task that was handed in can serve the next network


def test_channels_that_the_network_does_not_take_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(task=Mnist(channels=1), model=Torchvision())
    rule = "model=torchvision takes images of 3 channels, got task.channels=1; leave task.channels out"
    assert error.value.faults == (rule,)
    assert Experiment(task=Mnist(channels=3), model=Lenet5()).task.image_channels == 3


@pytest.mark.parametrize(
    ("network", "repair"),
    [
        ("resnet_18", "did you mean resnet18 or resnet152"),
        ("mobilenetv2", "did you mean mobilenet_v2"),
        ("fcn_resnet50", "did you mean resnet50"),
        ("yolo", "it has alexnet, convnext_base, "),
    ],
)
def test_an_unknown_network_of_torchvision_is_refused_with_the_nearest_names(network: str, repair: str) -> None:
    with pytest.raises(ConfigError) as error:
        Torchvision(network=network)
    (fault,) = error.value.faults
    rule = "model.network must be a network for classification in torchvision, got "
    assert fault.startswith(f"{rule}{network!r}; {repair}")


def test_the_weights_of_torchvision_are_for_its_networks() -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(train=Train(checkpoint="torchvision"))
    (fault,) = error.value.faults
    assert fault.startswith("train.checkpoint=torchvision is for model=torchvision, got model=mlp; ")


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [("torchvision", "DEFAULT"), ("torchvision:IMAGENET1K_V1", "IMAGENET1K_V1"), ("torchvision.pth", None)],
)
def test_a_checkpoint_names_the_weights_of_torchvision_or_a_file(checkpoint: str, name: str | None) -> None:
    assert Train(checkpoint=checkpoint).torchvision_weights == name
    assert Train(checkpoint=checkpoint).checkpoint_run is None


@pytest.mark.parametrize("network", ["googlenet", "resnet18"])
@pytest.mark.parametrize("checkpoint", ["torchvision", "own.pth", None])
def test_inputs_are_rescaled_for_the_weights_of_torchvision_that_need_it(network: str, checkpoint: str | None) -> None:
    model = Experiment(model=Torchvision(network=network), train=Train(checkpoint=checkpoint)).model
    assert isinstance(model, Torchvision)
    assert model.transform_input is (network == "googlenet" and checkpoint == "torchvision")


def test_a_task_on_its_own_has_the_crop_of_the_lab() -> None:
    assert Mnist().size is None
    assert [spec.values for spec in mnist.inputs(Mnist(), Kind.features)] == [400]


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        (Mnist(crop=20), "model=lenet5 takes images of 32x32, got task.crop=20; leave task.crop out"),
        (
            Sst2(),
            "model=lenet5 takes image, task=sst2 gives features or tokens; "
            "task=sst2 goes with model=mlp, lstm, bert, transformers; model=lenet5 with task=mnist, images, arrays",
        ),
    ],
    ids=["crop", "words"],
)
def test_a_network_for_images_refuses_what_is_none_of_its_size(task: Task, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(task=task, model=Lenet5())
    assert error.value.faults == (fault,)


def test_training_from_scratch_refuses_a_checkpoint_it_would_not_use() -> None:
    train = Train(checkpoint="mine.safetensors")
    with pytest.raises(ConfigError) as error:
        Experiment(quant=Qat(start=Start.scratch), train=train)
    assert error.value.faults == (
        "quant.start=scratch would not use the weights of train.checkpoint=mine.safetensors; give one of the two",
    )
    assert Experiment(quant=Qat(start=Start.trained), train=train).train.checkpoint == "mine.safetensors"
    assert Experiment(quant=Qat(start=Start.scratch)).train.checkpoint is None


@pytest.mark.parametrize(
    ("calibration", "examples", "quant"),
    [
        ("test", 7, Static(calibration=CalibrationSplit.test, calibration_examples=7)),
        ("train", 512, Static()),
        ("train", 512, Dynamic()),
    ],
)
def test_the_data_request_carries_what_the_run_says_about_data(calibration: str, examples: int, quant: Quant) -> None:
    experiment = Experiment(quant=quant, data=DataSource.sample, data_dir="sets", cache_dir="kept", seed=3)
    request = experiment.data_request
    assert (request.source, request.data_dir, request.cache_dir, request.seed) == ("sample", "sets", "kept", 3)
    assert (request.calibration, request.calibration_examples) == (calibration, examples)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_tracking_experiment_needs_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^tracking.experiment must name an experiment, got {name!r}$"):
        Local(experiment=name)


@pytest.mark.parametrize("uri", ["http://localhost:5000", "sqlite:///other.db", None])
def test_local_tracking_refuses_another_place(uri: str | None) -> None:
    with pytest.raises(ConfigError) as error:
        Local(uri=uri)
    [fault] = error.value.faults
    assert f"got tracking.uri={uri!r}" in fault
    assert "tracking=server tracking.uri=URI" in fault


@pytest.mark.parametrize("uri", [None, ""])
def test_server_tracking_needs_an_address(uri: str | None) -> None:
    with pytest.raises(ConfigError) as error:
        Server(uri=uri)
    [fault] = error.value.faults
    assert "needs an address" in fault
    assert "tracking.uri=" in fault
    assert "MLFLOW_TRACKING_URI" in fault


def test_server_tracking_refuses_an_address_that_is_no_uri() -> None:
    with pytest.raises(ConfigError, match=r"^tracking\.uri must be a URI .*, got 'localhost:5000'"):
        Server(uri="localhost:5000")


def test_faults_of_the_name_and_of_the_address_of_a_store_come_together() -> None:
    with pytest.raises(ConfigError) as error:
        Server(experiment=" ")
    assert len(error.value.faults) == 2


def test_options_built_from_the_same_values_are_equal() -> None:
    assert Lab(repeats=7) == Lab(repeats=7)
    assert Lab(repeats=7) != Lab(repeats=8)
    assert Experiment() == Experiment(quant=Static(), precision="int8", batch_size=[1, 64])

"""Every setting says what it affects."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from quantexp.config import (
    METHODS,
    NOTHING,
    OPTIONS,
    RESULT,
    WEIGHTS,
    Affects,
    Amp,
    CustomTask,
    Dynamic,
    Experiment,
    Mnist,
    Observer,
    Qat,
    Settings,
    Sst2,
    Static,
    SweepSettings,
    Train,
    affects,
    option,
)

EVERY_CLASS: tuple[type[Settings], ...] = (*OPTIONS, Experiment, SweepSettings)


def every_field() -> Iterator[tuple[type[Settings], dataclasses.Field[object]]]:
    for cls in EVERY_CLASS:
        for field in dataclasses.fields(cls):
            yield cls, field


EVERY_FIELD = [pytest.param(cls, field, id=f"{cls.__name__}.{field.name}") for cls, field in every_field()]
GROUPS = {field.name for field in dataclasses.fields(Experiment) if "affects" not in field.metadata}


@pytest.mark.parametrize(("cls", "field"), EVERY_FIELD)
def test_every_setting_says_what_it_affects_unless_it_is_a_group_of_them(
    cls: type[Settings], field: dataclasses.Field[object]
) -> None:
    if cls is Experiment and field.name in GROUPS:
        assert isinstance(getattr(Experiment(), field.name), Settings)
    else:
        assert isinstance(cls.affected_by(field.name), Affects)
        assert field.metadata["help"]


def test_the_groups_of_an_experiment_are_those_of_the_options_and_the_sweep() -> None:
    assert {option.group for option in OPTIONS} | {"sweep"} == GROUPS


def test_a_setting_cannot_be_declared_without_it() -> None:
    with pytest.raises(TypeError, match="affects"):
        option("a help", 1)  # type: ignore[call-arg]


@pytest.mark.parametrize("cls", EVERY_CLASS)
def test_what_a_class_says_of_inherited_settings_names_settings_that_it_has(cls: type[Settings]) -> None:
    assert set(cls.affects) <= {field.name for field in dataclasses.fields(cls)}


def test_the_settings_that_affect_something_are_given_as_plain_values() -> None:
    static = Static(observer=Observer.minmax)
    assert static.settings(WEIGHTS) == static.settings(NOTHING) == {}
    assert static.settings(RESULT)["observer"] == "minmax"
    assert set(static.settings(RESULT, WEIGHTS)) == {field.name for field in dataclasses.fields(Static)}
    assert Train(device="cpu").settings(WEIGHTS)["device"] == "cpu"  # type: ignore[arg-type]
    assert set(Experiment().settings(WEIGHTS)) == {"data", "validation", "seed"}
    assert set(Experiment().settings(RESULT)) == {"precision", "batch_size", "evaluation", "evaluation_examples"}
    assert set(Experiment().settings(NOTHING)) == {"data_dir", "cache_dir"}


def test_where_a_method_differs_from_another_each_says_so_itself() -> None:
    assert Dynamic.affected_by("exclude") is RESULT
    assert Qat.affected_by("exclude") is WEIGHTS
    assert {Qat.affected_by(field.name) for field in dataclasses.fields(Qat)} == {WEIGHTS}
    assert {method for method in METHODS if method.precision_affects is WEIGHTS} == {Amp}


def test_whatever_shapes_a_task_shapes_the_weights() -> None:
    for task in (Mnist, Sst2, CustomTask):
        assert {task.affected_by(field.name) for field in dataclasses.fields(task)} == {WEIGHTS}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("seed", WEIGHTS),
        ("data", WEIGHTS),
        ("evaluation", RESULT),
        ("batch_size", RESULT),
        ("data_dir", NOTHING),
        ("task", WEIGHTS),
        ("task.crop", WEIGHTS),
        ("model.arguments", WEIGHTS),
        ("quant", WEIGHTS),
        ("quant.flow", WEIGHTS),  # of one method at least
        ("quant.observer", RESULT),
        ("benchmark", RESULT),
        ("benchmark.threads", RESULT),
        ("study.max_variants", RESULT),
        ("study.resume", NOTHING),
        ("tracking", NOTHING),
        ("tracking.uri", NOTHING),
        ("runtime", RESULT),
        ("sweep.name", NOTHING),
        ("sweep", NOTHING),
        ("hydra.sweep.dir", NOTHING),
        ("quant.nonsense", NOTHING),
        ("nonsense", NOTHING),
    ],
)
def test_a_path_as_one_types_it_affects_the_most_that_any_of_its_settings_does(path: str, expected: Affects) -> None:
    assert affects(path) is expected

"""What a network takes: described, drawn at any batch size, cast."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import quantexp
from quantexp.results import InputSpec
from quantexp.tasks.inputs import cast, described, examples, size

PIXELS = InputSpec("pixels", (1, 4, 4), "float32", -0.5, 2.5)
VALUES = InputSpec("values", (3,))
IDS = InputSpec("ids", (None,), "int64", 5, 9, length=12)
MASK = InputSpec("mask", (None,), "int64", 0, 1, length=12)
BYTES = InputSpec("bytes", (2, 3), "uint8", 0, 255)
FLAGS = InputSpec("flags", (7,), "bool")
ALL = (PIXELS, VALUES, IDS, MASK, BYTES, FLAGS)


# What is refused


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a dtype that is not known": ({"dtype": "float64"}, "dtype of input x must be one of float32, int64, .* 'float64'"),
    "a size below one": ({"shape": (3, 0)}, r"sizes of input x must be at least 1, got \(3, 0\)"),
    "a length below one": ({"shape": (None,), "length": 0}, r"sizes of input x must be at least 1, got \(None,\), 0"),
    "a length that is not given": (
        {"shape": (None, 2)},
        "a length that varies, so `length` must give the length to measure with",
    ),
    "integers without a range": (
        {"dtype": "int64"},
        "input x holds integers, so `low` and `high` must give their range",
    ),
    "integers without a bound": (
        {"dtype": "uint8", "low": 0},
        "input x holds integers, so `low` and `high` must give their range",
    ),
    "a range the wrong way round": ({"low": 2, "high": 1}, "low of input x must not be above high, got 2 and 1"),
}


@pytest.mark.parametrize(("settings", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_a_spec_whose_parts_do_not_fit_together_is_refused_by_its_name(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        InputSpec(**{"name": "x", "shape": (2,), **settings})


def test_a_spec_cannot_be_changed_and_equal_ones_are_equal() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        IDS.high = 10  # type: ignore[misc]
    assert dataclasses.replace(IDS) == IDS
    assert quantexp.InputSpec is InputSpec


@pytest.mark.parametrize(
    ("spec", "shape", "values"), [(PIXELS, (1, 4, 4), 16), (IDS, (12,), 12), (InputSpec("one", ()), (), 1)]
)
def test_a_length_that_varies_is_measured_at_its_length(spec: InputSpec, shape: tuple[int, ...], values: int) -> None:
    assert (spec.measured, spec.values) == (shape, values)


# Examples


@pytest.mark.parametrize("count", [1, 2, 64])
def test_examples_have_the_shapes_and_dtypes_that_the_specs_say(count: int) -> None:
    batch = examples(ALL, count)
    assert [tuple(tensor.shape) for tensor in batch] == [(count, *spec.measured) for spec in ALL]
    assert [str(tensor.dtype) for tensor in batch] == [f"torch.{spec.dtype}" for spec in ALL]
    assert size(batch) == count


def test_examples_reach_both_ends_of_their_ranges_and_stay_within() -> None:
    pixels, values, ids, _, several, _ = examples(ALL, 500)
    assert -0.5 <= pixels.min() < -0.49
    assert 2.49 < pixels.max() <= 2.5
    assert set(ids.flatten().tolist()) == {5, 6, 7, 8, 9}, "every token of the vocabulary, and no other"
    assert set(several.flatten().tolist()) == set(range(256))
    assert bool(torch.isfinite(values).all())
    assert (values.mean().item(), values.std().item()) == pytest.approx((0, 1), abs=0.1), (
        "without a range they are normal"
    )


@pytest.mark.parametrize(("low", "high"), [(0.0, None), (None, 0.0)])
def test_floats_with_one_bound_keep_it(low: float | None, high: float | None) -> None:
    (values,) = examples([InputSpec("x", (100,), "float32", low, high)], 4)
    assert values.min() >= (low if low is not None else -math.inf)
    assert values.max() <= (high if high is not None else math.inf)
    assert values.unique().numel() > 100


@pytest.mark.parametrize("spec", [MASK, FLAGS, InputSpec("mask", (5,), "int32", 0, 1)], ids=["int64", "bool", "int32"])
def test_a_mask_is_ones_and_then_zeros_as_padding_leaves_it(spec: InputSpec) -> None:
    (mask,) = examples([spec], 200)
    rows = mask.int()
    assert set(rows.flatten().tolist()) == {0, 1}
    assert torch.equal(rows, rows.sort(1, descending=True).values), "each begins with ones"
    lengths = set(rows.sum(1).tolist())
    assert lengths == set(range(1, spec.measured[0] + 1)), "of every length, at least one"


def test_a_range_of_one_value_gives_that_value() -> None:
    token, pixel = examples([InputSpec("t", (3,), "int64", 4, 4), InputSpec("p", (3,), "float32", 0.5, 0.5)], 2)
    assert token.tolist() == [[4, 4, 4]] * 2
    assert pixel.tolist() == [[0.5, 0.5, 0.5]] * 2


def test_the_seed_decides_what_is_drawn_and_nothing_else_does() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = examples(ALL, 8, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(one, again) for one, again in zip(first, examples(ALL, 8, 3), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(first, examples(ALL, 8, 4), strict=True))


def test_examples_are_valid_examples_of_what_they_were_drawn_from() -> None:
    specs = described(examples(ALL, 400), names=[spec.name for spec in ALL])
    for spec, found in zip(ALL, specs, strict=True):
        assert (found.name, found.shape, found.dtype) == (spec.name, spec.measured, spec.dtype)
        if spec.dtype not in ("float32", "bool"):
            assert (found.low, found.high) == (spec.low, spec.high)


# Described, and cast


def test_a_batch_is_described_by_its_shapes_dtypes_and_the_ranges_of_its_integers() -> None:
    ids = torch.tensor([[3, 9, 4], [7, 3, 5]])
    batch: tuple[Tensor, ...] = (torch.randn(2, 3, 4, 4), ids, ids > 3, ids.to(torch.uint8))
    assert described(batch, ["image", "ids"]) == (
        InputSpec("image", (3, 4, 4)),
        InputSpec("ids", (3,), "int64", 3, 9),
        InputSpec("input2", (3,), "bool"),
        InputSpec("input3", (3,), "uint8", 3, 9),
    )


@pytest.mark.parametrize("tensor", [torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.int16)])
def test_what_no_spec_can_describe_is_refused_by_its_dtype(tensor: Tensor) -> None:
    with pytest.raises(ValueError, match=r"dtype of input input0 must be one of .*'(float64|int16)'"):
        described((tensor,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_casting_a_batch_leaves_what_is_not_floating_point_as_it_is(dtype: torch.dtype) -> None:
    batch = examples(ALL, 2)
    found = cast(batch, dtype)
    assert [tensor.dtype for tensor in found] == [dtype, dtype, torch.int64, torch.int64, torch.uint8, torch.bool]
    assert all(torch.equal(one, other) for one, other in list(zip(batch, found, strict=True))[2:])
    assert torch.equal(found[1], batch[1].to(dtype))

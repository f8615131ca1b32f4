"""The arithmetic of affine quantization: the lab's cases, torch and torchao as witnesses, what holds for any tensor."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchao.quantization.quant_primitives import (
    MappingType,
    choose_qparams_affine,
    dequantize_affine,
    quantize_affine,
)

from quantexp.quant.arithmetic.affine import (
    calculate_scale_and_zero_point,
    dequantize,
    integer_range,
    quantize,
    quantize_tensor,
    value_range,
)

# torch announces the end of its quantized dtypes; they are asked here only as witnesses.
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel and other quantized tensor creation:UserWarning"
)

# What the hand-out of the lab prints for torch.manual_seed(999) and torch.randn(n, n).
LAB_4 = [
    [-0.2623, 1.3991, 0.2842, 1.0275],
    [-0.9838, -3.4104, 1.4866, 0.2405],
    [1.4866, -0.3716, 0.0874, 2.1424],
    [0.6340, -1.1587, -0.7870, 0.0656],
]
LAB_8 = [
    [-0.2623, 1.3991, 0.2842, 1.0275, -0.9838, -3.4104, 1.4866, 0.2405],
    [1.4866, -0.3716, 0.0874, 2.1424, 0.6340, -1.1587, -0.7870, 0.0656],
    [0.0000, -0.6558, -1.0056, 0.3061, 0.6340, -1.0931, -1.6178, 1.5740],
    [-1.7927, 0.6121, -0.7214, 0.6121, 0.3279, -1.5959, -0.5247, 0.3498],
    [-1.3773, 1.1149, -0.7870, 0.2842, 0.9182, -1.1805, -0.7433, -1.5522],
    [1.0056, -0.1093, 1.3991, -0.9182, -1.1805, -0.6777, -0.3061, 0.9838],
    [0.2186, 1.6396, 1.0712, 1.7489, 0.0874, 0.3498, 0.9838, 1.2024],
    [-0.3935, -0.6340, 1.9238, 1.2898, 0.0219, 0.3935, 1.4866, -0.9401],
]

SCHEMES = [(signed, symmetric) for signed in (False, True) for symmetric in (False, True)]
SHAPES = [(7,), (1, 1), (16, 33), (3, 4, 5)]
SLACK = 1e-2  # steps: a scale in float32 is off by 2^-24 of itself, at 16 bits 65535 times


def drawn(shape: tuple[int, ...], seed: int = 0, shift: float = 0.0, spread: float = 1.0) -> Tensor:
    return shift + spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def steps_off(x: Tensor, axis: int | None, **scheme: object) -> Tensor:
    """How far each value is from its quantized self, in steps of its own scale."""
    quantized = quantize_tensor(x, axis=axis, **scheme)  # type: ignore[arg-type]
    scale = quantized.scale if axis is None else along(quantized.scale, x, axis)
    return (x - quantized.dequantize()).abs() / scale


def along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    return values.reshape([-1 if at == axis % x.ndim else 1 for at in range(x.ndim)])


# -- the lab ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [LAB_4, LAB_8], ids=["4x4", "8x8"])
def test_the_cases_of_the_lab_hold(rows: list[list[float]]) -> None:
    torch.manual_seed(999)
    x = torch.randn(len(rows), len(rows))
    scale, zero_point = calculate_scale_and_zero_point(x.min(), x.max(), 8)
    q = quantize(x, scale, zero_point, dtype=torch.uint8)
    restored = dequantize(q, scale, zero_point)
    assert q.dtype == torch.uint8
    torch.testing.assert_close(restored, torch.tensor(rows), rtol=0, atol=1e-4)
    torch.testing.assert_close(restored, x, rtol=0, atol=0.05)


def test_numbers_do_as_well_as_tensors() -> None:
    scale, zero_point = calculate_scale_and_zero_point(-1.0, 1.55, 8)
    assert scale.item() == pytest.approx(0.01)
    assert zero_point.item() == 100
    assert quantize(torch.tensor([0.5]), 0.01, 100).tolist() == [150]
    assert dequantize(torch.tensor([150], dtype=torch.uint8), 0.01, 100).tolist() == pytest.approx([0.5])


# -- witnesses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [(torch.uint8, torch.quint8), (torch.int8, torch.qint8)], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_a_tensor_is_quantized_as_torch_does(ours: torch.dtype, theirs: torch.dtype, seed: int) -> None:
    x = drawn((50, 41), seed, shift=seed - 2)
    scale, zero_point = calculate_scale_and_zero_point(-2.0, 1.5, 8, signed=ours is torch.int8)  # some are cut off
    witness = torch.quantize_per_tensor(x, scale, zero_point, theirs)
    q = quantize(x, scale, zero_point, ours)
    assert torch.equal(q, witness.int_repr())
    assert torch.equal(dequantize(q, scale, zero_point), witness.dequantize())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_channels_are_quantized_as_torch_does(axis: int, seed: int) -> None:
    x = drawn((12, 31), seed, spread=3)
    quantized = quantize_tensor(x, signed=True, nearest=True, axis=axis)
    witness = torch.quantize_per_channel(x, quantized.scale, quantized.zero_point, axis, torch.qint8)
    assert torch.equal(quantized.q, witness.int_repr())
    assert torch.equal(quantized.dequantize(), witness.dequantize())


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("num_bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_torchao_chooses_and_quantizes_the_same(axis: int | None, num_bits: int, signed: bool, symmetric: bool) -> None:
    low, high = integer_range(num_bits, signed=signed, symmetric=symmetric)
    dtype = torch.int8 if signed else torch.uint8
    mapping = MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC
    for seed in range(5):
        x = drawn((12, 31), seed, shift=0.3)
        block = tuple(1 if at == axis else size for at, size in enumerate(x.shape))
        ours = quantize_tensor(x, num_bits, signed=signed, symmetric=symmetric, nearest=True, axis=axis)
        scale, zero_point = choose_qparams_affine(x, mapping, block, dtype, low, high)
        torch.testing.assert_close(ours.scale.flatten(), scale.flatten(), rtol=3e-7, atol=0)
        assert torch.equal(ours.zero_point.flatten(), zero_point.flatten())
        q = quantize_affine(x, block, ours.scale, ours.zero_point, dtype, low, high)
        assert torch.equal(ours.q, q)
        restored = dequantize_affine(q, block, ours.scale, ours.zero_point, dtype, low, high)
        torch.testing.assert_close(ours.dequantize(), restored, rtol=0, atol=0)


# -- what holds for any tensor ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("num_bits", [2, 3, 4, 7, 8, 12, 16])
@pytest.mark.parametrize(("signed", "symmetric"), SCHEMES)
def test_rounding_moves_no_value_of_the_range_by_more_than_half_a_step(
    shape: tuple[int, ...], num_bits: int, signed: bool, symmetric: bool
) -> None:
    for seed, axis in itertools.product(range(4), (None, 0, len(shape) - 1)):
        x = drawn(shape, seed, shift=seed - 1, spread=10.0 ** (3 * seed - 5))
        off = steps_off(x, axis, num_bits=num_bits, signed=signed, symmetric=symmetric, nearest=True)
        assert off.max() <= 0.5 + SLACK


@pytest.mark.parametrize("num_bits", [2, 4, 8, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_the_whole_part_as_zero_point_costs_half_a_step_more_and_only_at_the_low_end(
    num_bits: int, signed: bool
) -> None:
    low, _ = integer_range(num_bits, signed=signed)
    for seed, axis in itertools.product(range(20), (None, 0, 1)):
        x = drawn((6, 40), seed)
        quantized = quantize_tensor(x, num_bits, signed=signed, axis=axis)
        scale, zero_point = (
            values if axis is None else along(values, x, axis) for values in (quantized.scale, quantized.zero_point)
        )
        off = (x - quantized.dequantize()).abs() / scale
        inside = x >= scale * (low - zero_point)
        assert off[inside].max() <= 0.5 + SLACK
        assert off.max() < 1 + SLACK
        assert (quantized.q[off > 0.5 + SLACK] == low).all()


@pytest.mark.parametrize("num_bits", [2, 4, 8, 16])
@pytest.mark.parametrize(("signed", "symmetric"), SCHEMES)
@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("shift", [-50.0, -1.0, 0.0, 1.0, 50.0])
def test_zero_is_held_exactly_even_where_the_range_excludes_it(
    num_bits: int, signed: bool, symmetric: bool, nearest: bool, shift: float
) -> None:
    scheme = {"signed": signed, "symmetric": symmetric}
    for seed, axis in itertools.product(range(4), (None, 0)):
        x = drawn((5, 9), seed, shift)
        ends = value_range(x, axis)
        scale, zero_point = calculate_scale_and_zero_point(*ends, num_bits, nearest=nearest, **scheme)
        limits = integer_range(num_bits, **scheme)
        held = {(True, 16): torch.int16, (False, 16): torch.uint16}.get((signed, num_bits))
        dtype = held or (torch.int8 if signed else torch.uint8)
        q = quantize(torch.zeros(5, 9), scale, zero_point, dtype, axis=axis, limits=limits)
        assert dequantize(q, scale, zero_point, axis=axis).count_nonzero() == 0
        assert ((zero_point >= limits[0]) & (zero_point <= limits[1])).all()


def test_signed_integers_are_the_unsigned_ones_shifted() -> None:
    x = drawn((8, 8))
    unsigned, signed = quantize_tensor(x), quantize_tensor(x, signed=True)
    assert torch.equal(unsigned.q.to(torch.int32) - 128, signed.q.to(torch.int32))
    assert torch.equal(unsigned.dequantize(), signed.dequantize())


def test_with_a_symmetric_range_negating_the_values_negates_the_integers() -> None:
    x = drawn((8, 8))
    there, back = (quantize_tensor(one, signed=True, symmetric=True) for one in (x, -x))
    assert there.zero_point == 0
    assert torch.equal(there.q, -back.q)
    assert there.q.abs().max() == 127


def test_a_channel_of_its_own_scale_is_quantized_as_it_would_be_alone() -> None:
    x = drawn((3, 5, 4)) * torch.tensor([1.0, 10.0, 0.1, 3.0])
    together = quantize_tensor(x, axis=-1).dequantize()
    for channel in range(4):
        assert torch.equal(together[..., channel], quantize_tensor(x[..., channel]).dequantize())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_values_of_another_float_dtype_are_not_rounded_before_they_are_quantized(dtype: torch.dtype) -> None:
    x = drawn((16, 16)).to(dtype)
    assert torch.equal(quantize_tensor(x).q, quantize_tensor(x.to(torch.float32)).q)


# -- ranges and integers that are out of the ordinary ----------------------------------------------------


@pytest.mark.parametrize(
    ("num_bits", "signed", "symmetric", "limits"),
    [
        (8, False, False, (0, 255)),
        (8, True, False, (-128, 127)),
        (8, True, True, (-127, 127)),
        (8, False, True, (1, 255)),
        (4, True, False, (-8, 7)),
        (2, True, True, (-1, 1)),
        (1, False, False, (0, 1)),
        (16, True, False, (-32768, 32767)),
    ],
)
def test_the_integers_of_a_width(num_bits: int, signed: bool, symmetric: bool, limits: tuple[int, int]) -> None:
    assert integer_range(num_bits, signed=signed, symmetric=symmetric) == limits


@pytest.mark.parametrize("value", [3.7, -3.7, 0.0, -0.0, 1e-30, -1e30, 2.0**-149])
@pytest.mark.parametrize(("signed", "symmetric"), SCHEMES)
@pytest.mark.parametrize("nearest", [False, True])
def test_a_constant_tensor_is_held_exactly(value: float, signed: bool, symmetric: bool, nearest: bool) -> None:
    x = torch.full((2, 3), value)
    restored = quantize_tensor(x, signed=signed, symmetric=symmetric, nearest=nearest).dequantize()
    torch.testing.assert_close(restored, x, rtol=1e-6, atol=2.0**-127)  # half of the smallest step there is


def test_a_range_of_nothing_but_zero_gets_the_smallest_step_there_is() -> None:
    scale, zero_point = calculate_scale_and_zero_point(0.0, 0.0, 8)
    assert scale.item() == torch.finfo(torch.float32).tiny
    assert zero_point.item() == 0
    assert calculate_scale_and_zero_point(0.0, 0.0, 8, symmetric=True)[1].item() == 128


def test_a_range_that_excludes_zero_is_widened_to_it() -> None:
    scale, zero_point = calculate_scale_and_zero_point(5.1, 10.2, 8)
    assert scale.item() == pytest.approx(10.2 / 255)
    assert zero_point.item() == 0
    scale, zero_point = calculate_scale_and_zero_point(-10.2, -5.1, 8)
    assert scale.item() == pytest.approx(10.2 / 255)
    assert zero_point.item() == 255


def test_what_lies_outside_the_range_becomes_its_ends_infinities_too() -> None:
    x = torch.tensor([-math.inf, -1e30, 0.0, 1e30, math.inf])
    assert quantize(x, 0.1, 100).tolist() == [0, 0, 100, 255, 255]
    assert quantize(x, 0.1, 3, limits=(0, 15)).tolist() == [0, 0, 3, 15, 15]


def test_halves_become_the_even_integer() -> None:
    assert quantize(torch.tensor([0.5, 1.5, 2.5]), 1.0, 0).tolist() == [0, 2, 2]


def test_an_empty_tensor_stays_empty_but_has_no_range() -> None:
    empty = torch.empty(0, 4)
    assert quantize(empty, 0.1, 0).shape == (0, 4)
    assert dequantize(quantize(empty, 0.1, 0), 0.1, 0).shape == (0, 4)
    with pytest.raises(ValueError, match=r"a range needs values, got an empty tensor of shape \(0, 4\)"):
        quantize_tensor(empty)


def test_the_range_of_a_channel_is_that_of_all_its_values() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert [end.tolist() for end in value_range(x)] == [0.0, 23.0]
    assert [end.tolist() for end in value_range(x, 1)] == [[0.0, 4.0, 8.0], [15.0, 19.0, 23.0]]
    assert [end.tolist() for end in value_range(x, -3)] == [[0.0, 12.0], [11.0, 23.0]]


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ((math.nan, 1.0), "a range must be finite, got nan to 1; remove NaN, and clamp infinities"),
        ((0.0, math.inf), "a range must be finite, got 0 to inf"),
        ((1.0, -1.0), "min_val must not be above max_val, got 1 and -1"),
        ((-1e300, 1e300), r"the width of a range must be finite in float32, got -1e\+300 to 1e\+300"),
        ((torch.zeros(2), torch.ones(3)), r"the same shape, got \(2,\) and \(3,\)"),
    ],
    ids=["nan", "inf", "turned", "wide", "shapes"],
)
def test_a_range_that_is_none_is_refused(ends: tuple[Tensor | float, Tensor | float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        calculate_scale_and_zero_point(*ends, 8)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_tensor_that_holds_what_no_range_does_is_refused(poison: float) -> None:
    with pytest.raises(ValueError, match="a range must be finite"):
        quantize_tensor(torch.tensor([1.0, poison]))


@pytest.mark.parametrize(("num_bits", "symmetric", "least"), [(0, False, 1), (17, False, 1), (1, True, 2)])
def test_a_width_that_leaves_no_integers_is_refused(num_bits: int, symmetric: bool, least: int) -> None:
    with pytest.raises(ValueError, match=f"from {least} to 16.*got {num_bits}"):
        integer_range(num_bits, symmetric=symmetric)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"x": torch.tensor([math.nan])}, "x must not contain NaN"),
        ({"x": torch.tensor([1])}, "x must be of a float dtype, got torch.int64"),
        ({"scale": 0.0}, "scale must be positive and finite, got 0"),
        ({"scale": math.nan}, "scale must be positive and finite, got nan"),
        ({"zero_point": 256}, "zero_point must be from 0 to 255, so that zero is in the range, got 256"),
        ({"zero_point": 16, "limits": (0, 15)}, "zero_point must be from 0 to 15"),
        ({"dtype": torch.int32}, "dtype must be one of torch.uint8, .* got torch.int32"),
        ({"limits": (-1, 7)}, "limits must be two integers in the range of torch.uint8.* got -1 and 7"),
        (
            {"scale": torch.ones(2), "zero_point": torch.zeros(2)},
            r"must have shape \(\) for axis=None, got \(2,\)",
        ),
        ({"axis": 0}, r"must have shape \(1,\) for axis=0, got \(\)"),
        ({"axis": 1}, "axis must be one of the 1 axes of the tensor, got 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_quantized_is_refused(given: dict[str, object], told: str) -> None:
    arguments: dict[str, object] = {"x": torch.tensor([1.0]), "scale": 0.1, "zero_point": 0, **given}
    with pytest.raises(ValueError, match=told):
        quantize(**arguments)  # type: ignore[arg-type]


def test_values_that_were_never_quantized_are_not_dequantized() -> None:
    with pytest.raises(ValueError, match=r"the dtype of q must be one of torch.uint8, .* got torch.float32"):
        dequantize(torch.tensor([1.0]), 0.1, 0)

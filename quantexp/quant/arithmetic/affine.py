"""Affine quantization in plain torch: real numbers are mapped to integers with a step of `scale`.

    x ≈ scale · (q - zero_point)

`scale` is the step size, in units of x; `zero_point` is the integer for 0.0. Zero is always in the range, so that
padding and the zeros of a ReLU are represented exactly. Inside the range, the rounding error is at most half a step;
values outside are clipped to the nearest end.

`scale` and `zero_point` have shape () per tensor and (channels,) per channel along `axis`. Groups smaller than a
channel, and integer matrix products, are not implemented here.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", arXiv:1712.05877, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_BITS = 16  # a float32 has 24 bits; the other 8 represent fractions of a step
INTEGERS = (torch.uint8, torch.int8, torch.uint16, torch.int16)


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized tensor: integers, scale and zero point; `axis` is the axis of the channels, None per tensor."""

    q: Tensor
    scale: Tensor
    zero_point: Tensor
    axis: int | None = None

    def dequantize(self) -> Tensor:
        """Return the values of the integers, float32."""
        return dequantize(self.q, self.scale, self.zero_point, axis=self.axis)


def integer_range(num_bits: int, *, signed: bool = False, symmetric: bool = False) -> tuple[int, int]:
    """Return the smallest and the largest integer that values are mapped to.

    These are 0 to 2^b - 1, or signed -2^(b-1) to 2^(b-1) - 1. Symmetric ranges omit the smallest integer, so that there
    are as many steps below zero as above it, and negating x negates q exactly.

    Raises:
        ValueError: If `num_bits` is not from 1 to 16, or is 1 for a symmetric range, which would only contain zero.
    """
    least = 2 if symmetric else 1
    if not least <= num_bits <= MOST_BITS:
        raise ValueError(f"num_bits must be from {least} to {MOST_BITS}{' if symmetric' * symmetric}, got {num_bits}")
    low = -(2 ** (num_bits - 1)) if signed else 0
    return low + symmetric, low + 2**num_bits - 1


def value_range(x: Tensor, axis: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value of the tensor, shape (), or of each channel along `axis`, (channels,).

    NaN and infinities are returned as well; `calculate_scale_and_zero_point` raises an error for them.

    Raises:
        ValueError: If `x` is empty, or has no such axis.
    """
    if not x.numel():
        raise ValueError(f"a range needs values, got an empty tensor of shape {tuple(x.shape)}")
    if axis is None:
        return x.amin(), x.amax()
    others = [other for other in range(x.ndim) if other != _checked_axis(x, axis) % x.ndim]
    return (x.amin(others), x.amax(others)) if others else (x, x)


def calculate_scale_and_zero_point(
    min_val: Tensor | float,
    max_val: Tensor | float,
    num_bits: int = 8,
    *,
    signed: bool = False,
    symmetric: bool = False,
    nearest: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the scale and the zero point that map a range of values to the integers.

        scale = (max - min) / (high - low)        zero_point = low + ⌊-min / scale⌋

    low and high are those of `integer_range`. The range is first extended to include zero: min = min(min_val, 0),
    max = max(max_val, 0). So the value of a constant tensor is an end of its range and is represented exactly. A range
    of only zero gets the smallest possible scale.

    ⌊ ⌋ rounds down: the integers then cover the range from min, or less than a step above it, to at least max. Values
    below the smallest integer are clipped, with an error of up to one step instead of half a step. With `nearest` the
    zero point is rounded to nearest, as in torch's observers, and no value in the range has an error above half a step.

    Symmetric: scale = max(|min|, |max|) / steps on one side, and zero_point is the middle integer, 0 if signed.

    Args:
        min_val, max_val: The range; numbers, or shape () per tensor, (channels,) per channel.
    Returns:
        `scale`, float32, and `zero_point`, int32, in the shape of the range.
    Raises:
        ValueError: If an end is NaN or infinite, min_val is above max_val, the range is too wide for float32, or
            `integer_range` does not accept `num_bits`.
    Source: Jacob et al. 2018, arXiv:1712.05877, equation 1 and section 2.1.
    """
    low, high = integer_range(num_bits, signed=signed, symmetric=symmetric)
    least, greatest = (torch.as_tensor(end, dtype=torch.float64) for end in (min_val, max_val))
    _check_range(least, greatest)
    least, greatest = least.clamp(max=0), greatest.clamp(min=0)
    if symmetric:
        greatest = torch.maximum(-least, greatest)
        least = -greatest
    steps = high - low
    smallest = torch.finfo(torch.float32).tiny  # its reciprocal is still finite
    width = (greatest - least).clamp(min=smallest * steps)
    scale = (width / steps).to(torch.float32)
    if not (scale * steps).isfinite().all():
        raise ValueError(f"the width of a range must be finite in float32, got {_shown(least)} to {_shown(greatest)}")
    if symmetric:
        return scale, torch.full_like(scale, (low + high) // 2, dtype=torch.int32)
    below = (
        -least * steps / width
    )  # computed in this order, a range that ends at zero has exactly all its steps on one side
    return scale, (low + (below.round() if nearest else below.floor())).to(torch.int32)


def quantize(
    x: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    dtype: torch.dtype = torch.uint8,
    *,
    axis: int | None = None,
    limits: tuple[int, int] | None = None,
) -> Tensor:
    """Map values to integers: q = clamp(round(x / scale) + zero_point, low, high).

    Ties are rounded to the even integer. Values outside the range, including infinities, are clipped to its ends. An
    empty tensor stays empty. Like torch's kernels, this multiplies x by 1 / scale in float32 (float64 if x is float64),
    so that ties are the same.

    Args:
        x: Any shape, any float dtype.
        scale, zero_point: Shape () per tensor, (channels,) per channel.
        dtype: The dtype of the integers.
        axis: The axis of the channels; None per tensor.
        limits: low and high; None for the full range of `dtype`. `integer_range` returns those of fewer bits.
    Returns:
        Integers in the shape of `x`.
    Raises:
        ValueError: If `x` contains NaN or does not have a float dtype; if a scale is not positive and finite; if a
            zero point is outside the limits, or the limits are outside the dtype, which has 8 or 16 bits; if the shapes
            do not match.
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be of a float dtype, got {x.dtype}")
    if x.isnan().any():
        raise ValueError("x must not contain NaN, which no integer can represent; replace NaN first")
    low, high = _checked_limits(dtype, limits)
    step, zero = _spread(x, scale, zero_point, axis)
    if not ((step > 0) & step.isfinite()).all():
        raise ValueError(f"scale must be positive and finite, got {_shown(step)}")
    if ((zero < low) | (zero > high)).any():
        raise ValueError(f"zero_point must be from {low} to {high}, so that zero is in the range, got {_shown(zero)}")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return ((wide * (1.0 / step)).round() + zero).clamp(low, high).to(dtype)


def dequantize(q: Tensor, scale: Tensor | float, zero_point: Tensor | int, *, axis: int | None = None) -> Tensor:
    """Return the values of the integers: scale · (q - zero_point), float32, in the shape of `q`.

    Args:
        q: Any shape, as `quantize` returns it.
        scale, zero_point, axis: As for `quantize`.
    Raises:
        ValueError: If `q` does not have an integer dtype of 8 or 16 bits, or the shapes do not match.
    """
    if q.dtype not in INTEGERS:
        raise ValueError(f"the dtype of q must be one of {', '.join(map(str, INTEGERS))}, got {q.dtype}")
    step, zero = _spread(q, scale, zero_point, axis)
    return (q.to(torch.int32) - zero).to(torch.float32) * step


def quantize_tensor(
    x: Tensor,
    num_bits: int = 8,
    *,
    signed: bool = False,
    symmetric: bool = False,
    nearest: bool = False,
    axis: int | None = None,
) -> Quantized:
    """Quantize a tensor with the range of its values, or the range of each channel along `axis`.

    Integers of up to 8 bits take one byte each, others two.

    Raises:
        ValueError: If `x` is empty or contains NaN or infinities, and as in the functions above.
    """
    limits = integer_range(num_bits, signed=signed, symmetric=symmetric)
    dtype = INTEGERS[2 * (num_bits > 8) + signed]
    scale, zero_point = calculate_scale_and_zero_point(
        *value_range(x, axis), num_bits, signed=signed, symmetric=symmetric, nearest=nearest
    )
    return Quantized(quantize(x, scale, zero_point, dtype, axis=axis, limits=limits), scale, zero_point, axis)


def _check_range(least: Tensor, greatest: Tensor) -> None:
    if least.shape != greatest.shape:
        raise ValueError(
            f"min_val and max_val must have the same shape, got {tuple(least.shape)} and {tuple(greatest.shape)}"
        )
    if not (least.isfinite() & greatest.isfinite()).all():
        raise ValueError(
            f"a range must be finite, got {_shown(least)} to {_shown(greatest)}; "
            "remove NaN, and clamp infinities to the intended ends"
        )
    if (least > greatest).any():
        raise ValueError(f"min_val must not be above max_val, got {_shown(least)} and {_shown(greatest)}")


def _checked_limits(dtype: torch.dtype, limits: tuple[int, int] | None) -> tuple[int, int]:
    if dtype not in INTEGERS:
        raise ValueError(f"dtype must be one of {', '.join(map(str, INTEGERS))}, got {dtype}")
    held = torch.iinfo(dtype)
    low, high = limits or (held.min, held.max)
    if not held.min <= low < high <= held.max:
        raise ValueError(
            f"limits must be two integers in the range of {dtype}, the lower one first, got {low} and {high}"
        )
    return low, high


def _checked_axis(x: Tensor, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be one of the {x.ndim} axes of the tensor, got {axis}")
    return axis


def _spread(x: Tensor, scale: Tensor | float, zero_point: Tensor | int, axis: int | None) -> tuple[Tensor, Tensor]:
    """Return scale and zero point in shapes that broadcast with `x`."""
    step = torch.as_tensor(scale, dtype=torch.float32, device=x.device)
    zero = torch.as_tensor(zero_point, dtype=torch.int32, device=x.device)
    expected = () if axis is None else (x.shape[_checked_axis(x, axis)],)
    if not step.shape == zero.shape == expected:
        raise ValueError(
            f"scale and zero_point must have shape {expected} for axis={axis}, "
            f"got {tuple(step.shape)} and {tuple(zero.shape)}"
        )
    if axis is None:
        return step, zero
    shape = [1] * x.ndim
    shape[axis] = -1
    return step.reshape(shape), zero.reshape(shape)


def _shown(values: Tensor) -> str:
    """Return the first values as text."""
    flat = [f"{value:g}" for value in values.flatten()[:3].tolist()]
    return ", ".join([*flat, "..."] if values.numel() > 3 else flat)

"""Convolutions in groups that miss the fast int8 kernel of fbgemm.

fbgemm has fast kernels for depthwise convolutions and for groups of 2, 4, 8 or 16 channels if they have their padding
themselves: half the size of a square kernel on each side. Else it computes group by group, and depthwise ones take 10
to 20 ns for each multiply-accumulate, a hundred times as long. docs/measurement.md has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from quantexp.config import Engine
from quantexp.quant.inspection.layers import held_weights

OF_TORCH = 100  # groups: with at most so many, torch lets the engine x86 compute with oneDNN if the CPU has VNNI
VNNI = "avx512_vnni"
DEPTHWISE_KERNELS = (3, 5, 7)
DEPTHWISE_MULTIPLE = 8  # of the channels
WIDTHS = (2, 4, 8, 16)  # channels of a group
NARROW = 8  # channels of a group: with more, the slow kernel takes less than three times as long as float


@dataclass(frozen=True)
class Convolution:
    """The settings of an int8 convolution; a kernel in one dimension has the size 1 in the other."""

    name: str
    channels: int
    outputs: int
    groups: int
    kernel: tuple[int, ...]
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False

    @property
    def width(self) -> int:
        """The input channels of a group."""
        return self.channels // self.groups

    @property
    def is_slow(self) -> bool:
        """Whether fbgemm has no fast kernel for it, and the kernel that it uses is far slower than float."""
        return self.groups > 1 and self.width <= NARROW and not self._has_fast_kernel()

    @property
    def inside(self) -> Convolution:
        """The same convolution with the padding that the fast kernels need."""
        return replace(self, padding=tuple(size // 2 for size in self.kernel))

    def _has_fast_kernel(self) -> bool:
        size = self.kernel[0]
        regular = (
            not self.transposed
            and set(self.kernel) == {size}
            and set(self.padding) == {size // 2}
            and set(self.dilation) == {1}
            and set(self.stride) <= {1, 2}
        )
        if self.width == 1:
            fits = self.channels % DEPTHWISE_MULTIPLE == 0 and self.outputs in (self.channels, 2 * self.channels)
            return regular and size in DEPTHWISE_KERNELS and fits
        fits = self.width in WIDTHS and self.outputs == self.channels
        return regular and self.kernel == (3, 3) and len(set(self.stride)) == 1 and fits


def slow_convolutions(
    network: nn.Module, engine: Engine | None, instruction_sets: Sequence[str]
) -> tuple[Convolution, ...]:
    """Return the int8 convolutions of a network without a fast kernel in its engine, of those that are in groups."""
    if engine not in (Engine.x86, Engine.fbgemm):
        return ()
    by_onednn = OF_TORCH if engine is Engine.x86 and VNNI in instruction_sets else 0
    return tuple(found for found in _convolutions(network) if found.is_slow and found.groups > by_onednn)


def _convolutions(network: nn.Module) -> Iterator[Convolution]:
    """Yield the convolutions with packed weights, modules and functions."""
    for held in held_weights(network):
        packed: Any = held.operand if held.operand is not None else vars(held.module).get("_packed_params")
        if hasattr(packed, "groups") and hasattr(packed, "unpack"):
            shape, groups, transposed = tuple(held.weight.shape), packed.groups(), bool(packed.transpose())
            padding, stride, dilation = (
                tuple(int(number) for number in numbers())
                for numbers in (packed.padding, packed.stride, packed.dilation)
            )
            first, second = shape[0], shape[1] * groups
            channels, outputs = (first, second) if transposed else (second, first)
            kernel = (1,) * (len(padding) - len(shape) + 2) + shape[2:]  # in one dimension it is packed as one of two
            yield Convolution(
                held.name, channels, outputs, groups, kernel, padding, stride, dilation, transposed=transposed
            )

"""How much of its outputs a network leaves to the rounding of its sums.

Two programs that compute the same products add them in another order, so that their sums differ in the last bits. A
quantized network can round such a sum to the next integer, and in a deep network, above all in one with random weights,
these steps grow from layer to layer. So no fixed bound for the difference of two programs suits all networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantexp.quant.inspection.mode import Mode
from quantexp.quant.inspection.products import Call, macs
from quantexp.statistics.sqnr import compared

STEPS = 8  # how far a sum is off, as a standard deviation: in units of the machine epsilon of its type, of its value
TWICE_DB = 6.0  # differences of twice the amplitude
SEED = 0


def least_sqnr_db(usual: float, ratio: float, expected: Tensor, call: Callable[[], Tensor]) -> float:
    """Return the least SQNR in dB that the outputs of another program must have: `usual`, or less where it must be.

    The bound is lower for a network whose own outputs change by more than that if each sum of products in it is
    multiplied by 1 + 8 e n, where e is the machine epsilon and n is drawn from the standard normal distribution.
    Another program may then differ by up to twice the amplitude of this change, but not by more than the outputs.

    Args:
        usual: The bound for networks on which rounding has a small effect.
        ratio: The SQNR of the other program; if that is enough, nothing is computed.
        expected: The outputs of the network.
        call: Computes them again.
    """
    if ratio >= usual:
        return usual
    with torch.no_grad(), _OtherSums():
        changed = call()
    return max(0.0, min(usual, compared(expected, changed)[1] - TWICE_DB))


class _OtherSums(Mode):
    """Change the sums of products as those of another order would differ. Sums of integers have one value only."""

    def __init__(self) -> None:
        super().__init__()
        self._draws = torch.Generator().manual_seed(SEED)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) or not result.dtype.is_floating_point:
            return result
        if macs(Call(func, args, kwargs or {}, result)) == 0:
            return result
        noise = torch.randn(result.shape, generator=self._draws, dtype=torch.float32)
        return (result * (1 + STEPS * torch.finfo(result.dtype).eps * noise)).to(result.dtype)

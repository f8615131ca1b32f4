"""Two calls of a network on the same inputs must agree: else it is random in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from quantexp.results import Finding
from quantexp.statistics.sqnr import compared
from quantexp.system.errors import CheckError
from quantexp.tasks.inputs import Batch

CALLS = 3  # a network that is only random now and then may agree with itself once


@torch.no_grad()
def difference(network: Callable[..., Any], batch: Batch) -> float:
    """Return the largest difference between the outputs of several calls on `batch`."""
    first, *others = (network(*batch) for _ in range(CALLS))
    return max(compared(first, other)[0] for other in others)


def check_float(found: float) -> tuple[Finding, ...]:
    """Return a finding if the outputs of the float network differ by `found` between two calls."""
    if not found:
        return ()
    text = (
        f"the float network is random in evaluation mode: its outputs for the same inputs differ by up to {found:.2g}, "
        "so all figures vary from call to call (dropout that stays on, as in F.dropout(x), or noise)"
    )
    return (Finding("repeated", text),)


def check_quantized(found: float, of_float: float) -> None:
    """Check that the outputs of the quantized network vary only if those of the float network do.

    Raises:
        CheckError: If only the quantized network is random.
    """
    if found and not of_float:
        raise CheckError(
            "repeated",
            "two calls of the quantized network on the same inputs must agree, as they do in the float network; they "
            f"differ by up to {found:.2g}: part of it is in training mode, or a kernel is wrong",
        )

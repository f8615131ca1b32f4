"""The outputs of a runtime must be those of the network in eager execution, up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from quantexp.quant.inspection.rounding import least_sqnr_db
from quantexp.statistics.sqnr import compared
from quantexp.system.errors import BenchmarkError

# The least SQNR of the outputs in dB, with eager execution as the reference, by the precision of the products: fused
# sums differ in their last bits, which can change the rounding to integers by one step, in each layer anew.
LEAST_SQNR_DB = {"int8": 25.0, "int4": 25.0, "bf16": 30.0, "fp16": 30.0}
LEAST_FLOAT_SQNR_DB = 60.0
# The largest share of examples whose prediction differs; so few differences say nothing, as any data have near ties.
MOST_DIFFERENT, SOME = 0.01, 5


def largest_difference(
    what: str, network: Callable[[], Tensor], expected: Tensor, found: Tensor, precisions: Iterable[str], repair: str
) -> float:
    """Return the largest difference of the outputs of a runtime from those of eager execution.

    Args:
        what: What gave the outputs, the subject of an error.
        network: Computes the outputs in eager execution again.
        expected: The outputs in eager execution.
        found: The outputs of the runtime.
        precisions: Those of what ran, and of the weights.
        repair: What to do instead, the end of an error.

    Raises:
        BenchmarkError: If they differ by more than rounding.
    """
    difference, ratio = compared(expected, found)
    usual = min((LEAST_SQNR_DB.get(name, LEAST_FLOAT_SQNR_DB) for name in precisions), default=LEAST_FLOAT_SQNR_DB)
    least = least_sqnr_db(usual, ratio, expected, network)
    if not ratio >= least:
        raise BenchmarkError(
            f"the outputs of {what} must equal those of eager execution up to rounding (SQNR of at least {least:.3g} "
            f"dB); they have {ratio:.1f} dB and differ by up to {difference:.2g}; {repair}"
        )
    return difference


def share_of_equal(what: str, expected: Tensor, found: Tensor, repair: str) -> float:
    """Return the share of examples with the same prediction in a runtime as in eager execution.

    Args:
        what: What gave the predictions, the subject of an error.
        expected: The predictions in eager execution, shape (examples,).
        found: Those of the runtime.
        repair: What to do instead, the end of an error.

    Raises:
        BenchmarkError: If more than 1 % of the predictions differ, and not only a handful.
    """
    different, total = int((expected != found).sum()), len(expected)
    if different > max(MOST_DIFFERENT * total, SOME):
        raise BenchmarkError(
            f"the predictions of {what} must be those of eager execution for {1 - MOST_DIFFERENT:.0%} of the examples; "
            f"{different:,} of {total:,} differ; {repair}"
        )
    return 1 - different / total

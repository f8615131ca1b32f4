"""What is stored must be what was measured: the network that was read back computes the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from quantexp.config import Engine
from quantexp.quant.engine import use_engine
from quantexp.state.copies import copied
from quantexp.statistics.sqnr import compared
from quantexp.system.environment import threads, usable_cores
from quantexp.system.errors import CheckError
from quantexp.tasks.inputs import Batch, size

LEAST_SQNR_DB = 20.0  # with other threads sums differ in their last bits, which can change a rounding by one step


@torch.no_grad()
def check_stored(
    network: nn.Module,
    loaded: nn.Module,
    batches: Sequence[Batch],
    random: float,
    count: int,
    engine: Engine | None = None,
) -> None:
    """Compare a network with itself after it was stored and read back.

    Args:
        network: The network that was stored.
        loaded: The network that was read back.
        batches: The inputs of each comparison.
        random: The largest difference between two calls of `network` on the same inputs; so much is allowed.
        engine: The engine that its int8 weights are packed for.
        count: The threads; with two threads the outputs need only agree up to rounding.

    Raises:
        CheckError: If the outputs differ.
    """
    with threads(count), use_engine(engine):
        expected = [network(*batch) for batch in batches]
        for batch, reference in zip(batches, expected, strict=True):
            found, _ = compared(reference, loaded(*batch))
            # A float kernel may compute other last bits with weights at another address, as in a copy.
            if found and not found <= 2 * max(random, compared(reference, copied(network)(*batch))[0]):
                raise CheckError(
                    "stored",
                    "a network that was stored and read back must give equal outputs, they differ by up to "
                    f"{found:.2g} (batch size {size(batch)}): it knows something that is neither in its parameters "
                    "and buffers nor a number or tensor that is an attribute of a module; keep it there",
                )
    other = min(3 - min(count, 2), usable_cores())
    if other == count or random or not batches:
        return
    with threads(other):
        _, ratio = compared(expected[-1], loaded(*batches[-1]))
    if not ratio >= LEAST_SQNR_DB:
        raise CheckError(
            "stored",
            f"the outputs of a network must not depend on the threads but for rounding; on {other} instead of {count} "
            f"their SQNR is {ratio:.1f} dB; set benchmark.threads={other}, or report the kernel",
        )

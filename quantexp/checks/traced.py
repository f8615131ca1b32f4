"""The graph that a flow traced must compute what the network computes, for every input and every batch size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from quantexp.state.copies import to_run
from quantexp.statistics.sqnr import compared
from quantexp.system.errors import CheckError
from quantexp.tasks.inputs import Batch, size

LEAST_SQNR_DB = 60.0  # a graph may sum in another order, but in float32
SCALE, SHIFT = -1.5, 0.25  # of the copy: other signs, other values


def batches(examples: Iterable[Batch]) -> Iterator[Batch]:
    """Yield each batch, and a copy of it with floats scaled and shifted."""
    for batch in examples:
        yield batch
        yield tuple(tensor * SCALE + SHIFT if tensor.is_floating_point() else tensor for tensor in batch)


@torch.no_grad()
def check_traced(network: nn.Module, graph: nn.Module, inputs: Sequence[Batch]) -> None:
    """Compare the traced graph with the network.

    Args:
        network: The float network in evaluation mode; a copy is run, since it may change in a call.
        graph: What a flow traced of it.
        inputs: The batches of the comparison.

    Raises:
        CheckError: If the outputs differ by more than rounding, or the graph fails.
    """
    original = to_run(network)
    for batch in inputs:
        expected = original(*batch)
        try:
            difference, ratio = compared(expected, graph(*batch))
        except Exception as error:  # code that was traced with other inputs can raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise CheckError("traced", f"{_rule(batch)}, but it fails ({reason})") from error
        if not ratio >= LEAST_SQNR_DB:
            raise CheckError(
                "traced",
                f"{_rule(batch)}, but its outputs differ by up to {difference:.2g}: something that the network does "
                "(control flow that depends on the inputs, a hook, a statement that changes a tensor in place) is not "
                "in the graph",
            )


def _rule(batch: Batch) -> str:
    return f"the traced graph must compute what the network computes (here with batch size {size(batch)})"

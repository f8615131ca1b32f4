"""What executes a network, a file a runtime, each with the same two functions.

require(runtime)                           nothing, if this machine has what the runtime needs
prepare(runtime, network, batch, engine)   the network executable for batches like `batch`, checked against `network`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from quantexp.config import Engine, Runtime
from quantexp.system.implementation import resolve

if TYPE_CHECKING:
    from torch import nn

    from quantexp.results import Operator
    from quantexp.tasks.inputs import Batch


class Prepared(Protocol):
    """A network that a runtime can execute."""

    @property
    def network(self) -> Callable[..., Any]:
        """What is called as `network(*batch)`: in inference mode, on tensors that were made in it."""

    @property
    def batch_size(self) -> int | None:
        """The only batch size that it can be called with; None where it can be any."""

    @property
    def seconds(self) -> float | None:
        """What preparing it took, None where there is nothing to prepare."""

    @property
    def max_difference(self) -> float | None:
        """The greatest difference of its outputs from those before it was prepared, None where it is the same."""

    def copied(self) -> Callable[..., Any]:
        """Return the network with its weights elsewhere in memory."""

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that run on the batch that it was prepared with."""


def require(runtime: Runtime) -> None:
    """Make sure that this machine has what the runtime needs. Raises BenchmarkError."""
    resolve(runtime.implementation).require(runtime)


def prepare(runtime: Runtime, network: nn.Module, batch: Batch, engine: Engine | None = None) -> Prepared:
    """Return the network executable for batches like `batch`, its int8 weights packed for `engine`.

    Raises:
        BenchmarkError: If the runtime cannot execute it here, or computes something else.
    """
    prepared: Prepared = resolve(runtime.implementation).prepare(runtime, network, batch, engine)
    return prepared

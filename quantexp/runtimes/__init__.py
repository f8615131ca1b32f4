"""The runtimes, which execute networks. There is one module for each, with the same two functions.

require(runtime)                           raise BenchmarkError if this machine does not support the runtime
prepare(runtime, network, batch, engine)   make the network executable for batches like `batch`, and check its outputs
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
    """A network that is prepared for a runtime."""

    @property
    def network(self) -> Callable[..., Any]:
        """The executable network, called as `network(*batch)` in inference mode, on tensors made in it."""

    @property
    def batch_size(self) -> int | None:
        """The only batch size that it accepts; None for any batch size."""

    @property
    def seconds(self) -> float | None:
        """The time of the preparation, None if there is nothing to prepare."""

    @property
    def max_difference(self) -> float | None:
        """The largest difference of its outputs from those before preparation, None if nothing is prepared."""

    def copied(self) -> Callable[..., Any]:
        """Return the network with its weights at other addresses in memory."""

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that run on a batch like the one it was prepared with."""


def require(runtime: Runtime) -> None:
    """Check that this machine supports the runtime. Raises BenchmarkError."""
    resolve(runtime.implementation).require(runtime)


def prepare(runtime: Runtime, network: nn.Module, batch: Batch, engine: Engine | None = None) -> Prepared:
    """Make the network executable for batches like `batch`; `engine` is the one its int8 weights are packed for.

    Raises:
        BenchmarkError: If the runtime cannot execute it on this machine, or its outputs differ.
    """
    prepared: Prepared = resolve(runtime.implementation).prepare(runtime, network, batch, engine)
    return prepared

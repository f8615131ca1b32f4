"""The runtimes, which execute networks. There is one module for each, with the same two functions.

require(runtime)                           raise BenchmarkError if this machine does not support the runtime
prepare(runtime, network, batch, engine)   make the network executable for batches like `batch`, and check its outputs

A runtime that executes a file also takes that file, `exported`, and then does not make it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantexp.config import Engine, Runtime
from quantexp.system.implementation import resolve

if TYPE_CHECKING:
    from torch import nn

    from quantexp.runtimes.prepared import Prepared
    from quantexp.tasks.inputs import Batch


def require(runtime: Runtime) -> None:
    """Check that this machine supports the runtime. Raises BenchmarkError, or ConfigError if packages are missing."""
    resolve(runtime.implementation).require(runtime)


def prepare(
    runtime: Runtime, network: nn.Module, batch: Batch, engine: Engine | None = None, exported: bytes | None = None
) -> Prepared:
    """Make the network executable for batches like `batch`.

    Args:
        runtime: What executes it.
        network: A float network, or one that was quantized for the target of the runtime.
        batch: Batches of other sizes are accepted if the `batch_size` of the result is None.
        engine: The engine that its int8 weights are packed for, None if it has none.
        exported: The file that the runtime executes, if it was made before.

    Raises:
        BenchmarkError: If the runtime cannot execute it on this machine, or its outputs differ.
    """
    given = {} if exported is None else {"exported": exported}
    prepared: Prepared = resolve(runtime.implementation).prepare(runtime, network, batch, engine, **given)
    return prepared

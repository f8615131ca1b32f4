"""A network that is measured: what proves it, and how it is made executable and placed elsewhere in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from quantexp.config import Engine, Runtime
from quantexp.results import Evidence, Training
from quantexp.runtimes import Prepared, prepare
from quantexp.tasks.inputs import Batch


@dataclass(frozen=True)
class Contestant:
    """A network, the precision it is said to have, the runtime that executes it, what proves it, how it was trained.

    `engine` is the one that its int8 weights are packed for, None where none are.
    """

    network: nn.Module
    precision: str
    runtime: Runtime
    evidence: Evidence
    training: Training | None = None
    engine: Engine | None = None

    def prepared(self, batch: Batch) -> Prepared:
        """Return the network executable for batches like `batch`. Raises BenchmarkError."""
        return prepare(self.runtime, self.network, batch, self.engine)

"""Eager execution in PyTorch: a network runs as it is, with batches of any size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from quantexp.config import Eager, Engine
from quantexp.quant.engine import use_engine
from quantexp.quant.inspection.evidence import operators
from quantexp.results import Operator
from quantexp.runtimes.prepared import Prepared
from quantexp.state.copies import copied
from quantexp.system.garbage import collect_garbage
from quantexp.tasks.inputs import Batch


@dataclass(frozen=True)
class EagerNetwork(Prepared):
    """The network itself, and the batch that it was prepared with."""

    network: nn.Module
    batch: Batch
    engine: Engine | None = None

    def copied(self) -> nn.Module:
        """Return a new copy of the network, its weights packed for the same engine."""
        collect_garbage()  # of earlier copies
        with use_engine(self.engine):
            return copied(self.network)

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that run in a forward pass on the batch."""
        return operators(self.network, self.batch)


def require(runtime: Eager) -> None:
    """Do nothing: every machine supports eager execution."""


def prepare(runtime: Eager, network: nn.Module, batch: Batch, engine: Engine | None) -> EagerNetwork:
    """Return the network as it is."""
    return EagerNetwork(network, batch, engine)

"""What is measured: a model, and what must be known of it to copy it and to report on it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from quantexp.config import Engine
from quantexp.quant.engine import use_engine
from quantexp.report.results import Training


@dataclass(frozen=True)
class Subject:
    """A model, the precision it is said to have, how it was trained, and the engine its weights are packed for."""

    model: nn.Module
    precision: str
    training: Training | None = None
    engine: Engine | None = None

    def copied(self) -> nn.Module:
        """Return a fresh copy of the model, its weights elsewhere in memory, packed for the same engine."""
        with use_engine(self.engine):
            return copy.deepcopy(self.model)

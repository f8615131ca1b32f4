"""What is measured: a model, and what must be known of it to copy it, to store it and to report on it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from quantexp.config import Engine
from quantexp.quant.engine import use_engine
from quantexp.results import Evidence, Training
from quantexp.storage.stored import Recipe


@dataclass(frozen=True)
class Subject:
    """A model, the precision it is said to have, what proves it, how it was made and how it is made again.

    `engine` is the one that its int8 weights are packed for, None where none are.
    """

    model: nn.Module
    precision: str
    evidence: Evidence
    recipe: Recipe
    training: Training | None = None
    engine: Engine | None = None

    def copied(self) -> nn.Module:
        """Return a fresh copy of the model, its weights elsewhere in memory, packed for the same engine."""
        with use_engine(self.engine):
            return copy.deepcopy(self.model)

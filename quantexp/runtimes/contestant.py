"""A network that is measured, with its evidence and its runtime."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantexp.config import Eager, Engine, Runtime
from quantexp.results import Evidence, Training
from quantexp.runtimes import prepare
from quantexp.runtimes.prepared import Prepared
from quantexp.system.environment import threads, usable_cores
from quantexp.tasks.data import Split
from quantexp.tasks.inputs import Batch, size
from quantexp.training.loop import outputs


@dataclass(frozen=True)
class Contestant:
    """A network with its nominal precision, its runtime, the evidence of what ran, and its training.

    `engine` is the one that its int8 weights are packed for, None if it has none. `inspected` is the network that was
    inspected, executable for the batches that it predicts in; None if it is only timed. `earlier` is what was prepared
    to be timed before anything else was compiled.
    """

    network: nn.Module
    precision: str
    runtime: Runtime
    evidence: Evidence
    training: Training | None = None
    engine: Engine | None = None
    inspected: Prepared | None = None
    earlier: tuple[Prepared, ...] = ()

    def prepared(self, batch: Batch) -> Prepared:
        """Return the network executable for batches like `batch`: one that was prepared before, if it accepts them.

        Raises:
            BenchmarkError: If the runtime cannot execute it on this machine, or its outputs differ.
        """
        for made in self._made:
            if made.batch_size in (None, size(batch)):
                return made
        return prepare(self.runtime, self.network, batch, self.engine, None if self.runtime.fixed else self.exported)

    @property
    def exported(self) -> bytes | None:
        """The file that the runtime executes, None if it executes the network as it is."""
        return next((made.exported for made in self._made if made.exported), None)

    @property
    def _made(self) -> tuple[Prepared, ...]:
        return (self.inspected, *self.earlier) if self.inspected else self.earlier

    def outputs(self, examples: Split, count: int) -> Tensor:
        """Return the outputs for all examples, computed by its runtime.

        Args:
            examples: Predicted in the same batches as in `training.loop`.
            count: The threads that the network was inspected with; eager execution uses all cores instead.
        """
        inspected = self.inspected
        if inspected is None or isinstance(self.runtime, Eager):
            return self.eager_outputs(examples)
        with threads(count), torch.inference_mode():  # like the preparation
            predicted = outputs(inspected.of_any_size, examples)
        return predicted.clone()  # outside of inference mode: an ordinary tensor

    def eager_outputs(self, examples: Split) -> Tensor:
        """Return the outputs for all examples in eager execution, on all cores."""
        with threads(usable_cores()):
            return outputs(self.network, examples)

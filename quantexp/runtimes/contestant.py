"""A network that is measured: what proves it, and how it is made executable and placed elsewhere in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Engine, Runtime
from quantexp.results import Evidence, Training
from quantexp.runtimes import Prepared, prepare
from quantexp.system.environment import threads, usable_cores
from quantexp.tasks.data import Split
from quantexp.tasks.inputs import Batch, size
from quantexp.training.loop import outputs


@dataclass(frozen=True)
class Contestant:
    """A network, the precision it is said to have, the runtime that executes it, what proves it, how it was trained.

    `engine` is the one that its int8 weights are packed for, None where none are. `inspected` is the network as it was
    inspected, executable for the batches that it predicts in; None for one that is timed only.
    """

    network: nn.Module
    precision: str
    runtime: Runtime
    evidence: Evidence
    training: Training | None = None
    engine: Engine | None = None
    inspected: Prepared | None = None

    def prepared(self, batch: Batch) -> Prepared:
        """Return the network executable for batches like `batch`: as it was inspected, if that takes them.

        Raises:
            BenchmarkError: If the runtime cannot execute it here, or computes something else.
        """
        if self.inspected and self.inspected.batch_size in (None, size(batch)):
            return self.inspected
        return prepare(self.runtime, self.network, batch, self.engine)

    def outputs(self, examples: Split, count: int) -> Tensor:
        """Return what the network gives for each example, as its runtime executes it.

        Args:
            examples: Predicted in the batches of `training.loop`.
            count: The threads that it was inspected with; eager execution uses all cores.
        """
        inspected = self.inspected
        if inspected is None or inspected.batch_size is None:
            with threads(usable_cores()):
                return outputs(self.network, examples)
        with threads(count), torch.inference_mode():  # as it was prepared
            given = outputs(_padding(inspected.network, inspected.batch_size), examples)
        return given.clone()  # a tensor like any other


def _padding(network: Callable[..., Any], batch_size: int) -> Callable[..., Tensor]:
    """Return `network`, which takes `batch_size` examples, for batches of fewer: their rows are repeated."""

    def padded(*batch: Tensor) -> Tensor:
        count = len(batch[0])
        if count < batch_size:
            batch = tuple(tensor[torch.arange(batch_size) % count] for tensor in batch)
        given: Tensor = network(*batch)[:count]
        return given

    return padded

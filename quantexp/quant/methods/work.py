"""The arguments of every method, and those that rebuild a stored network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from quantexp.config import WEIGHTS, Eager, Flow, Quant, Train
from quantexp.state.copies import to_run
from quantexp.tasks.data import TaskData
from quantexp.tasks.inputs import Batch
from quantexp.training.baseline import Baseline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """The parameters of the structure of a quantized network, besides its method and the float network.

    `example` is a batch of at least two examples; its values do not matter. `target` is the form that the runtime
    needs.
    """

    precision: str
    example: Batch
    target: str = "kernels"


@dataclass(frozen=True)
class Work:
    """The arguments of a method: the float network, the data, the training options, and the form of the result.

    `executes` tells whether the runtime executes networks of a method in a flow. With `advise`, an error says what
    quantizes the network instead, found by trying; `judge` tells whether what was tried computes what it should.
    """

    baseline: Baseline
    data: TaskData
    train: Train
    form: Form
    advise: bool = True
    executes: Callable[[type[Quant], Flow], bool] = Eager.executes
    judge: Callable[[Quant, Work, nn.Module], bool] | None = None

    def accepted(self, sizes: Iterable[int]) -> Iterator[Batch]:
        """Yield batches of these sizes of the calibration examples, those on which the float network runs.

        A network may need several examples, as with a normalisation that has no statistics of its own.
        """
        model = to_run(self.baseline.model)
        for count in sizes:
            batch = self.data.calibration.first(count)
            try:
                with torch.no_grad():
                    model(*batch)
            except MemoryError:
                raise
            except Exception:  # the code of the network can raise anything
                log.info("check     the float network does not run on a batch of %d, which is left out", count)
            else:
                yield batch


def weight_settings(option: Quant, form: Form) -> dict[str, Any]:
    """Return the settings of a method that affect the weights it trains; the precision is one of them for some."""
    precision = {"precision": form.precision} if option.precision_affects is WEIGHTS else {}
    return {**option.settings(WEIGHTS), **precision}

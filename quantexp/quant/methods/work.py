"""The arguments of every method, and those that rebuild a stored network."""

from __future__ import annotations

from dataclasses import dataclass

from quantexp.config import Train
from quantexp.tasks.data import TaskData
from quantexp.tasks.inputs import Batch
from quantexp.training.baseline import Baseline


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
    """The arguments of a method: the float network, the data, the training options, and the form of the result."""

    baseline: Baseline
    data: TaskData
    train: Train
    form: Form

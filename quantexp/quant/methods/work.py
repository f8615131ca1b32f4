"""What every method is given, and what a stored network is built again from."""

from __future__ import annotations

from dataclasses import dataclass

from quantexp.config import Train
from quantexp.tasks.data import TaskData
from quantexp.tasks.inputs import Batch
from quantexp.training.baseline import Baseline


@dataclass(frozen=True)
class Form:
    """What the structure of a quantized network depends on, beside its method and the float network.

    `example` is a batch of two inputs or more; its values do not matter. `target` is the form that the runtime needs.
    """

    precision: str
    example: Batch
    target: str = "kernels"


@dataclass(frozen=True)
class Work:
    """The float network, the data, how to train others, and the form of what is to come out."""

    baseline: Baseline
    data: TaskData
    train: Train
    form: Form

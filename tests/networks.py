"""What becomes of one network: quantized without a run around it, inspected, stored and loaded again."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from quantexp.config import Engine, Experiment, Quant
from quantexp.mission import input_kind
from quantexp.quant.inspection.evidence import inspect, operators
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.results import Evidence
from quantexp.state.copies import copied
from quantexp.storage import stored
from quantexp.storage.prediction import StoredModel
from quantexp.storage.recipe import Recipe
from quantexp.tasks.data import Split, TaskData
from quantexp.training.loop import outputs


def made(option: Quant, network: nn.Module, precision: str, *batch: Tensor) -> nn.Module:
    """Return a copy of `network` quantized for kernels, its ranges those of the batch."""
    return skeleton(option, copied(network), Form(precision, batch))


def inspected(
    network: nn.Module, *batch: Tensor, promise: Promise | None = None, engine: Engine | None = None
) -> Evidence:
    """Return what inspection finds in a network that runs eagerly on the batch."""
    return inspect(Quantized(network, promise), operators(network, batch), engine)


def predictions(network: nn.Module, examples: Split) -> Tensor:
    """Return the class of the greatest output of each example."""
    return outputs(network, examples).argmax(1)


def loaded_again(
    folder: Path, network: nn.Module, experiment: Experiment, data: TaskData, *, trust: bool = False
) -> StoredModel:
    """Store the network that the experiment left, and load it."""
    stored.save(folder, network, Recipe.of(experiment, data, input_kind(experiment)))
    return stored.load(folder, trust=trust)

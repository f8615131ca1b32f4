"""A network that was loaded, and its predictions on raw inputs, such as images or sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantexp import tasks
from quantexp.config import Kind, Task
from quantexp.system.errors import ModelError
from quantexp.tasks.inputs import Batch
from quantexp.tasks.preparation import Preparation
from quantexp.training.loop import PREDICT_BATCH


@dataclass(frozen=True)
class Prediction:
    """The prediction for one input. `name` is the name of the class; None if the classes have no names."""

    label: int
    probabilities: tuple[float, ...]
    name: str | None = None


class StoredModel(nn.Module):
    """A stored network: a call on a batch of prepared inputs returns logits, `predict` takes raw inputs.

    Args:
        network: Called as `network(*batch)`; returns logits of shape (batch, classes).
        task: Prepares raw inputs; None if the network was stored without a task.
        kind: The kind of input that the task prepares.
        preparation: What the task needs besides its settings, and the names of the classes.
    """

    def __init__(self, network: nn.Module, task: Task | None, kind: Kind, preparation: Preparation) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.kind = kind
        self.preparation = preparation

    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.network(*batch)
        return logits

    @torch.no_grad()
    def predict(self, raw: Any) -> Prediction | list[Prediction]:
        """Return the prediction for one raw input, or a list of predictions for several.

        Several are computed in batches of the same size as in the run, because dynamic quantization chooses a range for
        each batch.

        Args:
            raw: For mnist an image of 28x28 integers from 0 to 255, or (n, 28, 28) of them; for sst2 and text a
                sentence, or a list of sentences, with words separated by spaces; for images and audio a path, or a
                list of paths; for arrays an example, or a stack of them; for your own task what its `encode` takes.

        Raises:
            ModelError: If `raw` has another form.
        """
        if self.task is None:
            raise ModelError(
                "raw inputs need the task of the model, but it was stored without a task, or was loaded without trust; "
                "call the model on tensors, or load it with trust=True"
            )
        batch, single = tasks.encode(self.task, self.kind, raw, self.preparation)
        pieces = zip(*(torch.split(tensor, PREDICT_BATCH) for tensor in batch), strict=True)
        predictions = [prediction for piece in pieces for prediction in self._predictions(piece)]
        return predictions[0] if single else predictions

    def _predictions(self, batch: Batch) -> list[Prediction]:
        names = self.preparation.class_names
        logits = self(*batch)
        rows = zip(logits.argmax(1).tolist(), logits.double().softmax(1).tolist(), strict=True)
        return [
            Prediction(label, tuple(probabilities), names[label] if names else None) for label, probabilities in rows
        ]

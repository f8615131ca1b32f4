"""A model that was read back, and what it says of raw inputs: an image, a sentence, before any preparation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Task
from quantexp.system.errors import ModelError


@dataclass(frozen=True)
class Prediction:
    """What a model says of one input. `name` is that of its class; None where classes are numbers only."""

    label: int
    probabilities: tuple[float, ...]
    name: str | None = None


class StoredModel(nn.Module):
    """A stored network: called on prepared inputs it gives logits, `predict` takes raw ones.

    Args:
        network: Takes float32 (batch, features), gives (batch, classes).
        task: Prepares raw inputs; None if the network was stored without one.
        vocabulary: The words that the task counts, in the order of the features.
    """

    def __init__(self, network: nn.Module, task: Task | None, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.vocabulary = tuple(vocabulary)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        return logits

    @torch.no_grad()
    def predict(self, raw: Any) -> Prediction | list[Prediction]:
        """Return what the model says of one raw input, or a list of it for many.

        Many are computed in the batches of the run: dynamic quantization chooses a range for each batch.

        Args:
            raw: For mnist an image of 28x28 whole numbers from 0 to 255, or (n, 28, 28) of them; for sst2 a sentence,
                or a list of sentences, their words between spaces as in the training data.

        Raises:
            ModelError: If `raw` is something else.
        """
        from quantexp.training.loop import PREDICT_BATCH

        if self.task is None:
            raise ModelError("raw inputs need the task of a model, this one was stored without; call it on tensors")
        inputs = self.task.encode(raw, self.vocabulary)
        if inputs.dim() == 1:
            return self._predictions(inputs[None])[0]
        return [one for batch in torch.split(inputs, PREDICT_BATCH) for one in self._predictions(batch)]

    def _predictions(self, inputs: Tensor) -> list[Prediction]:
        names = self.task.class_names if self.task else ()
        logits = self(inputs)
        found = zip(logits.argmax(1).tolist(), logits.double().softmax(1).tolist(), strict=True)
        return [
            Prediction(label, tuple(probabilities), names[label] if names else None) for label, probabilities in found
        ]

"""A network that was read back, and what it says of raw inputs: an image, a sentence, before any preparation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantexp import tasks
from quantexp.config import Kind, Task
from quantexp.system.errors import ModelError
from quantexp.tasks.inputs import Batch
from quantexp.training.loop import PREDICT_BATCH


@dataclass(frozen=True)
class Prediction:
    """What a network says of one input. `name` is that of its class; None where classes are numbers only."""

    label: int
    probabilities: tuple[float, ...]
    name: str | None = None


class StoredModel(nn.Module):
    """A stored network: called on a batch of prepared inputs it gives logits, `predict` takes raw ones.

    Args:
        network: Called as `network(*batch)`, gives (batch, classes).
        task: Prepares raw inputs; None if the network was stored without one.
        kind: The kind of input that it prepares them as.
        vocabulary: The words that the task counts, in the order of the features.
    """

    def __init__(self, network: nn.Module, task: Task | None, kind: Kind, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.kind = kind
        self.vocabulary = tuple(vocabulary)

    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.network(*batch)
        return logits

    @torch.no_grad()
    def predict(self, raw: Any) -> Prediction | list[Prediction]:
        """Return what the network says of one raw input, or a list of it for many.

        Many are computed in the batches of the run: dynamic quantization chooses a range for each batch.

        Args:
            raw: For mnist an image of 28x28 integers from 0 to 255, or (n, 28, 28) of them; for sst2 a sentence,
                or a list of sentences, their words between spaces as in the training data; for a task of your own
                what its `encode` takes.

        Raises:
            ModelError: If `raw` is something else.
        """
        if self.task is None:
            raise ModelError(
                "raw inputs need the task of a model, this one was stored without, or is not trusted; "
                "call it on tensors, or load it with trust=True"
            )
        batch, single = tasks.encode(self.task, self.kind, raw, self.vocabulary)
        pieces = zip(*(torch.split(tensor, PREDICT_BATCH) for tensor in batch), strict=True)
        found = [prediction for piece in pieces for prediction in self._predictions(piece)]
        return found[0] if single else found

    def _predictions(self, batch: Batch) -> list[Prediction]:
        names = self.task.class_names if self.task else ()
        logits = self(*batch)
        found = zip(logits.argmax(1).tolist(), logits.double().softmax(1).tolist(), strict=True)
        return [
            Prediction(label, tuple(probabilities), names[label] if names else None) for label, probabilities in found
        ]

"""The float network as it is, without training it, and trainings of a few steps: to try what works, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantexp.config import Experiment, Qat, Train
from quantexp.results import Training
from quantexp.state.copies import copied
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import Baseline
from quantexp.training.cache import Trained

STEPS = 4  # of a training: enough to see each of its parts at work
LEARNING_RATE = 1e-7  # the outputs must stay comparable with those of the float network


class BriefBaseline(Baseline):
    """The float network without training it: from the cache, from `train.checkpoint`, or random.

    What is trained from it starts at its weights and is not stored, as it is trained for a few steps only.
    """

    weights = "trained"

    def fresh(self) -> nn.Module:
        """Return the initial network; once the float network is known, a copy of that."""
        return copied(self.model) if hasattr(self, "model") else super().fresh()

    def trained_once(
        self,
        kind: str,
        recipe: Train,
        extra: Mapping[str, Any],
        build: Callable[[], nn.Module],
        train: Callable[[nn.Module], Training],
    ) -> Trained:
        """Return the network of `build()` after `train`."""
        model = build()
        training = train(model)
        return Trained(model.eval(), training)

    def _from_cache(self) -> Trained:
        key = self._key("float", self._experiment.train, {})
        if found := self._cache.find(key, self.fresh, f"float {self._experiment.task.name}"):
            self.key = key
            return found
        return self._random()

    def _random(self) -> Trained:
        self.weights = "random"
        return super()._random()

    def _from_checkpoint(self, weights: Path | None) -> Trained:
        self.weights = "checkpoint"
        return super()._from_checkpoint(weights)


def brief(experiment: Experiment, data: TaskData) -> tuple[Experiment, TaskData]:
    """Return the experiment and the data with trainings of a few steps that hardly change the weights."""
    train = replace(experiment.train, epochs=1, learning_rate=LEARNING_RATE)
    experiment = replace(experiment, train=train)
    if isinstance(experiment.quant, Qat):
        quant = replace(experiment.quant, epochs=1, learning_rate=LEARNING_RATE)
        experiment = replace(experiment, quant=quant)
    rows = torch.arange(min(len(data.train), STEPS * train.batch_size))
    return experiment, replace(data, train=data.train.take(rows))

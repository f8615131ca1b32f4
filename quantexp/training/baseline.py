"""The float network of a run, trained once, and the training of other networks with the same settings."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantexp import models, tasks
from quantexp.config import WEIGHTS, Experiment, Torchvision, Train
from quantexp.results import Training
from quantexp.state.checkpoint import fill_from_file, fill_from_stored
from quantexp.state.files import SAFE_STATE, sha256
from quantexp.system.cache import cache_folder
from quantexp.system.errors import TrainingError
from quantexp.tasks.data import Split, TaskData
from quantexp.training.cache import ModelCache, Trained
from quantexp.training.loop import fit, resolve_device, resolve_threads, trainable

log = logging.getLogger(__name__)

FORMAT = 3  # increase it when the same key gives other weights: after changes to fit, a network, or data preparation
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORM_BATCH, NORM_PASSES = 64, 4  # for the statistics of batch normalisation, if nothing is trained


class UntrainedError(TrainingError):
    """A network that nothing may be trained for was not trained before in this run."""


class Baseline:
    """The float network, and the training of other networks with the same settings.

    Attributes:
        model: The float network; quantization works on copies of it.
        training: Its training; None if its weights are from `train.checkpoint`, random, or all frozen.
        key: Identifies its weights, in the cache keys of networks that are trained from them.
    """

    key: dict[str, Any]

    def __init__(self, experiment: Experiment, data: TaskData, weights: Path | None = None) -> None:
        self._experiment = experiment
        self._data = data
        self._checkpoint: str | None = None  # digest of its content, since files may change
        self._trained: list[dict[str, Any]] = []  # the keys of the networks of this run
        self._only_reads = False
        if experiment.train.checkpoint:
            trained = self._from_checkpoint(weights)
        elif experiment.labelled:
            trained = self._from_cache()
        else:
            trained = self._random()
        self.model = trained.model
        self.training = trained.training

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self._experiment.seed

    @property
    def can_train(self) -> bool:
        """Whether the examples have labels, so that networks can be trained."""
        return self._experiment.labelled

    def fresh(self) -> nn.Module:
        """Return the network with the initial weights of the float network."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._experiment.seed)
            return models.build(self._experiment.model, self._data.inputs, self._data.classes)

    def trained_once(
        self,
        kind: str,
        recipe: Train,
        extra: Mapping[str, Any],
        build: Callable[[], nn.Module],
        train: Callable[[nn.Module], Training],
    ) -> Trained:
        """Return the network of `build()` after `train`, from the cache if it was trained before.

        Args:
            kind: The kind of training: "float", "qat" or "amp".
            recipe: The training options; part of the key, as are all settings that affect the weights.
            extra: Further values that affect the weights.
            build: Builds the network.
            train: Trains it in place.

        Raises:
            UntrainedError: If this baseline is one without training, and this run has not stored the network before.
        """
        key, what = self._key(kind, recipe, extra), f"{kind} {self._experiment.task.name}"
        if self._only_reads:
            if key in self._trained and (found := self._cache.find(key, build, what)):
                return found
            raise UntrainedError(f"{what} must be trained before it is read; use a baseline that trains")
        trained = self._cache.get(key, build, train, what)
        self._trained.append(key)
        return trained

    def without_training(self) -> Baseline:
        """Return a baseline that trains nothing: it reads from the cache what was trained before in this run."""
        reader = copy.copy(self)
        reader._only_reads = True
        return reader

    @cached_property
    def _cache(self) -> ModelCache:
        return ModelCache(cache_folder(self._experiment.cache_dir, "models"))

    def _from_cache(self) -> Trained:
        recipe = self._experiment.train
        self.key = self._key("float", recipe, {})
        if not trainable(built := self.fresh()):
            log.info("train     skipped: all parameters of the network are frozen, or it has none")
            return Trained(built.eval(), None)

        def train(model: nn.Module) -> Training:
            label = f"train {self._experiment.task.name}"
            return fit(model, self._data.train, self._data.objective, recipe, seed=self.seed, label=label)

        return self.trained_once("float", recipe, {}, self.fresh, train)

    def _from_checkpoint(self, weights: Path | None) -> Trained:
        """Read the weights from a file or, if `train.checkpoint` names a run, from the folder `weights`."""
        checkpoint = str(self._experiment.train.checkpoint)
        model = self.fresh()
        if weights is not None:
            fill_from_stored(model, weights, f"train.checkpoint={checkpoint}")
            path = weights / SAFE_STATE
        else:
            path = self._torchvision_weights() or Path(checkpoint).expanduser()
            fill_from_file(model, path)
        self._checkpoint = sha256(path)
        self.key = {"checkpoint": self._checkpoint}
        log.info("train     skipped: weights from %s", checkpoint)
        return Trained(model.eval(), None)

    def _torchvision_weights(self) -> Path | None:
        """Return the file with torchvision's weights if `train.checkpoint` names these, downloaded if necessary."""
        network, name = self._experiment.model, self._experiment.train.torchvision_weights
        if not isinstance(network, Torchvision) or name is None:
            return None
        from quantexp.models import torchvision

        return torchvision.weights(network, name, self._data.classes, self._experiment.cache_dir)

    def _random(self) -> Trained:
        model = self.fresh()
        _settle_norms(model, self._data.train, self.seed)
        self.key = {"random": self._experiment.seed}
        log.info("train     skipped: weights as built, because there are no labels")
        return Trained(model.eval(), None)

    def _key(self, kind: str, recipe: Train, extra: Mapping[str, Any]) -> dict[str, Any]:
        experiment = self._experiment
        return {
            "format": FORMAT,
            "kind": kind,
            **experiment.settings(WEIGHTS),
            "task": {
                "name": experiment.task.name,
                **experiment.task.settings(WEIGHTS),
                **tasks.source(experiment.task),
            },
            "fingerprint": self._data.fingerprint,
            "model": {
                "name": experiment.model.name,
                **experiment.model.settings(WEIGHTS),
                **models.source(experiment.model),
            },
            "train": {
                **recipe.settings(WEIGHTS),
                "checkpoint": self._checkpoint,
                "device": resolve_device(recipe.device).type,
                "threads": resolve_threads(recipe.threads),
            },
            "torch": torch.__version__,
            **extra,
        }


def trained(experiment: Experiment, data: TaskData, weights: Path | None = None) -> Baseline:
    """Return the float network of an experiment, trained or from the cache. Raises TrainingError, CacheError."""
    return Baseline(experiment, data, weights)


@torch.no_grad()
def _settle_norms(model: nn.Module, examples: Split, seed: int) -> None:
    """Set fresh statistics of batch normalisation with a few forward passes; without them, activations vanish."""
    norms = [module for module in model.modules() if isinstance(module, NORMS) and _is_fresh(module)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.eval()  # statistics that were trained stay as they are
        for norm in norms:
            norm.train()
            norm.momentum = None  # the mean over the passes
        size = min(NORM_BATCH, len(examples))
        for number in range(NORM_PASSES):
            model(*examples.first(size, skipping=number * size))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _is_fresh(norm: nn.Module) -> bool:
    """Return whether a batch normalisation has the statistics that it was built with: mean 0, variance 1."""
    mean, variance = norm.running_mean, norm.running_var
    if not isinstance(mean, torch.Tensor) or not isinstance(variance, torch.Tensor):
        return False  # it tracks none
    return not mean.any() and bool((variance == 1).all())

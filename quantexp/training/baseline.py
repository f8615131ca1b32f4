"""The float model of a run, and the cache of everything that was trained.

An entry is two files named by the hash of its key: `<hash>.safetensors` with the weights, and
`<hash>.json` with the key in clear, the training record and the SHA-256 of the weights. The JSON is
written last, so an entry without it does not exist; a process that dies leaves no half entry. Whatever
shapes the weights is in the key: a run that differs in any of it trains its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantexp.config import Experiment, Train
from quantexp.results import Training
from quantexp.state.checkpoint import SAFE_STATE, fill_from_file, fill_from_stored
from quantexp.system.cache import cache_folder, locked, write_atomically
from quantexp.system.errors import TrainingError
from quantexp.tasks.data import TaskData
from quantexp.training.loop import fit, resolve_device, resolve_threads

log = logging.getLogger(__name__)

FORMAT = 1  # raise when the same key would give other weights: changes of fit, of a network, of data preparation


@dataclass(frozen=True)
class Trained:
    """A trained model on the CPU in evaluation mode. `training` is None for the user's own weights."""

    model: nn.Module
    training: Training | None


class Baseline:
    """The trained float model, and the means to train others on the same terms.

    Attributes:
        model: The float model; quantization works on copies of it.
        training: How it was trained; None if its weights came from `train.checkpoint`.
        key: Names its weights, for the cache keys of what is trained from them.
    """

    key: dict[str, Any]

    def __init__(self, experiment: Experiment, data: TaskData, weights: Path | None = None) -> None:
        self._experiment = experiment
        self._data = data
        trained = self._from_checkpoint(weights) if experiment.train.checkpoint else self._from_cache()
        self.model = trained.model
        self.training = trained.training

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self._experiment.seed

    def fresh(self) -> nn.Module:
        """Return the untrained model that the float model began as."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._experiment.seed)
            return self._experiment.model.build(self._data.features, self._data.classes)

    def trained_once(
        self,
        kind: str,
        recipe: Train,
        extra: Mapping[str, Any],
        build: Callable[[], nn.Module],
        train: Callable[[nn.Module], Training],
    ) -> Trained:
        """Return what `train(build())` gives, from the cache if it was trained before.

        Args:
            kind: What is trained: "float", "qat", "amp".
            recipe: How; part of the key, as are task, data, model, seed and versions.
            extra: Whatever else shapes the weights.
            build: Builds the structure, which trained weights are filled into.
            train: Trains it in place.
        """
        return self._cache.get(self._key(kind, recipe, extra), build, train, f"{kind} {self._experiment.task.name}")

    @cached_property
    def _cache(self) -> ModelCache:
        return ModelCache(cache_folder(self._experiment.cache_dir, "models"))

    def _from_cache(self) -> Trained:
        recipe = self._experiment.train
        self.key = self._key("float", recipe, {})

        def train(model: nn.Module) -> Training:
            label = f"train {self._experiment.task.name}"
            return fit(model, self._data.train, recipe, seed=self._experiment.seed, label=label)

        return self.trained_once("float", recipe, {}, self.fresh, train)

    def _from_checkpoint(self, weights: Path | None) -> Trained:
        """Start from a file, or from `weights`: the folder of the network that the run in `train.checkpoint` stored."""
        checkpoint = str(self._experiment.train.checkpoint)
        model = self.fresh()
        if weights is not None:
            fill_from_stored(model, weights, f"train.checkpoint={checkpoint}")
            content = (weights / SAFE_STATE).read_bytes()
        else:
            path = Path(checkpoint).expanduser()
            fill_from_file(model, path)
            content = path.read_bytes()
        self.key = {"checkpoint": hashlib.sha256(content).hexdigest()}
        log.info("train     nothing: weights from %s", checkpoint)
        return Trained(model.eval(), None)

    def _key(self, kind: str, recipe: Train, extra: Mapping[str, Any]) -> dict[str, Any]:
        experiment = self._experiment
        return {
            "format": FORMAT,
            "kind": kind,
            "task": {"name": experiment.task.name, **asdict(experiment.task)},
            "data": {
                "source": experiment.data.value,
                "fingerprint": self._data.fingerprint,
                **({"validation": experiment.validation} if experiment.validation else {}),
            },
            "model": {"name": experiment.model.name, **asdict(experiment.model), **experiment.model.source()},
            "train": {
                "epochs": recipe.epochs,
                "batch_size": recipe.batch_size,
                "learning_rate": recipe.learning_rate,
                "optimizer": recipe.optimizer.value,
                "device": resolve_device(recipe.device).type,
                "threads": resolve_threads(recipe.threads),
            },
            "seed": experiment.seed,
            "torch": torch.__version__,
            **extra,
        }


def obtain(experiment: Experiment, data: TaskData, weights: Path | None = None) -> Baseline:
    """Return the float model of an experiment, trained once. Raises TrainingError, CacheError."""
    return Baseline(experiment, data, weights)


class ModelCache:
    """Trained models in a folder, one entry a key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(
        self,
        key: Mapping[str, Any],
        build: Callable[[], nn.Module],
        train: Callable[[nn.Module], Training],
        what: str,
    ) -> Trained:
        """Return the entry of `key`; train and store it if there is none, or only a damaged one."""
        stem = self.folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        if stem.with_suffix(".json").is_file() and (entry := self._read(stem, build(), what)):
            return entry
        with locked(stem.with_suffix(".lock"), f"another process trains {what}"):
            if entry := self._read(stem, build(), what, warn=True):  # perhaps trained while we waited
                return entry
            log.info("train     %s", what)
            model = build()
            training = train(model)
            if bad := [name for name, tensor in model.state_dict().items() if bool(torch.isnan(tensor).any())]:
                raise TrainingError(
                    f"weights must stay numbers while training, {bad[0]} of {what} does not; lower train.learning_rate"
                )
            log.info("train     %s: %.1f s, loss %.3f", what, training.seconds, training.losses[-1])
            self._write(stem, key, model, training)
        return Trained(model.eval(), training)

    def _read(self, stem: Path, model: nn.Module, what: str, *, warn: bool = False) -> Trained | None:
        """Fill `model` from the entry; None if there is none or, after a warning, if it is damaged."""
        from pydantic import TypeAdapter
        from safetensors.torch import load

        record = stem.with_suffix(".json")
        if not record.is_file():
            return None
        try:
            entry = json.loads(record.read_bytes())
            training = TypeAdapter(Training).validate_python(entry["training"])
            weights = stem.with_suffix(".safetensors").read_bytes()
            if hashlib.sha256(weights).hexdigest() != entry["sha256"]:
                raise ValueError("its weights are not those that were stored")
            model.load_state_dict(load(weights))
        except Exception as error:  # whatever is wrong with an entry, it can be made again
            if warn:
                reason = " ".join(str(error).split())[:200]
                log.warning("the cache entry %s is damaged (%s); it is made again", record, reason)
            return None
        log.info("train     %s: from the cache (%.1f s when it was trained)", what, training.seconds)
        return Trained(model.eval(), training)

    def _write(self, stem: Path, key: Mapping[str, Any], model: nn.Module, training: Training) -> None:
        """Store the entry. A disk that is full costs the entry, not the training: the run goes on."""
        from safetensors.torch import save

        weights = save({name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()})
        entry = {"key": key, "training": asdict(training), "sha256": hashlib.sha256(weights).hexdigest()}
        try:
            write_atomically(stem.with_suffix(".safetensors"), weights)
            write_atomically(stem.with_suffix(".json"), json.dumps(entry, indent=1).encode())
        except OSError as error:
            log.warning(
                "the trained model cannot be kept in %s (%s); this run goes on, the next one trains again",
                self.folder,
                error.strerror or error,
            )

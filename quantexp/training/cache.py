"""The cache of everything that was trained.

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
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantexp.results import Training
from quantexp.system.cache import locked, write_atomically
from quantexp.system.errors import TrainingError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained model on the CPU in evaluation mode. `training` is None for weights that quantexp did not train."""

    model: nn.Module
    training: Training | None


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

"""The cache of trained networks.

An entry consists of two files, named by the hash of its key: `<hash>.safetensors` with the weights, and `<hash>.json`
with the key, the training record and the SHA-256 of the weights. The JSON is written last, and an entry without it is
ignored, so a process that is killed leaves no incomplete entry. The key has everything that affects the weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.results import Training
from quantexp.state.extra import tensors_only, with_extra
from quantexp.state.files import sha256
from quantexp.system.cache import locked, write_atomically, written_atomically
from quantexp.system.errors import TrainingError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained network on the CPU in evaluation mode. `training` is None for weights that quantexp did not train."""

    model: nn.Module
    training: Training | None


class ModelCache:
    """Trained networks in a folder, one entry for each key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(
        self,
        key: Mapping[str, Any],
        build: Callable[[], nn.Module],
        train: Callable[[nn.Module], Training],
        what: str,
    ) -> Trained:
        """Return the entry of `key`; train and store it if it is missing or damaged."""
        if entry := self.find(key, build, what):
            return entry
        stem = self._stem(key)
        with locked(stem.with_suffix(".lock"), f"another process is training {what}"):
            if entry := self._read(stem, build(), what, warn=True):  # another process may have trained it
                return entry
            log.info("train     %s", what)
            model = build()
            training = train(model)
            if bad := [name for name, tensor in model.state_dict().items() if _has_nan(tensor)]:
                raise TrainingError(
                    f"weights must stay finite in training, {bad[0]} of {what} has NaN; lower train.learning_rate"
                )
            log.info("train     %s: %.1f s, loss %.3f", what, training.seconds, training.losses[-1])
            self._write(stem, key, model, training)
        return Trained(model.eval(), training)

    def find(self, key: Mapping[str, Any], build: Callable[[], nn.Module], what: str) -> Trained | None:
        """Return the entry of `key`, None if it is missing or damaged."""
        stem = self._stem(key)
        return self._read(stem, build(), what) if stem.with_suffix(".json").is_file() else None

    def _stem(self, key: Mapping[str, Any]) -> Path:
        """Return the path of an entry's files without their suffix."""
        return self.folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]

    def _read(self, stem: Path, model: nn.Module, what: str, *, warn: bool = False) -> Trained | None:
        """Fill `model` from the entry; None if it is missing or damaged, with a warning if `warn`."""
        from pydantic import TypeAdapter
        from safetensors.torch import load_file

        record = stem.with_suffix(".json")
        if not record.is_file():
            return None
        try:
            entry = json.loads(record.read_bytes())
            training = TypeAdapter(Training).validate_python(entry["training"])
            weights = stem.with_suffix(".safetensors")
            if sha256(weights) != entry["sha256"]:
                raise ValueError("its weights have changed since they were stored")
            model.load_state_dict(with_extra(load_file(weights)))
        except Exception as error:  # a damaged entry can raise anything, and is replaced
            if warn:
                reason = " ".join(str(error).split())[:200]
                log.warning("the cache entry %s is damaged (%s); it is trained again", record, reason)
            return None
        log.info("train     %s: from the cache (training took %.1f s)", what, training.seconds)
        return Trained(model.eval(), training)

    def _write(self, stem: Path, key: Mapping[str, Any], model: nn.Module, training: Training) -> None:
        """Store the entry. If the disk is full, or the network has state of another kind, the run continues without."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        weights = stem.with_suffix(".safetensors")
        try:
            with written_atomically(weights) as scratch:
                save_file(tensors_only(model.state_dict()), scratch)
            entry = {"key": key, "training": asdict(training), "sha256": sha256(weights)}
            write_atomically(stem.with_suffix(".json"), json.dumps(entry, indent=1).encode())
        except (OSError, TypeError, SafetensorError) as error:
            with suppress(OSError):
                weights.unlink()  # without their record they are of no use
            log.warning(
                "the trained network cannot be stored in %s (%s); this run continues, the next run trains again",
                self.folder,
                getattr(error, "strerror", None) or error,
            )


def _has_nan(value: Any) -> bool:
    return isinstance(value, Tensor) and bool(torch.isnan(value).any())

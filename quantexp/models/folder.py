"""A folder of Hugging Face that a network is built from: its configuration and its weights. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from quantexp.config import Transformers
from quantexp.system import contents
from quantexp.system.errors import ConfigError

CONFIGURATION = "config.json"
POOLING = "1_Pooling/config.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
UNSAFE = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")  # weights that only other formats have
OURS = "state.safetensors"  # the state of a stored network, whose folder has a configuration too


def check(model: Transformers) -> None:
    """Check that there is a configuration, and that no weights are in unsafe files only. Raises ConfigError."""
    place = path_of(model)
    _parsed(model)
    if has_weights(model):
        return
    if unsafe := sorted(path.name for pattern in UNSAFE for path in place.glob(pattern)):
        raise ConfigError(
            f"model.path={model.path} must have its weights in safetensors, it has only {unsafe[0]}, which would be "
            "unpickled; convert it, as with AutoModel.from_pretrained(...).save_pretrained(folder)"
        )


def path_of(model: Transformers) -> Path:
    """Return the folder."""
    return Path(str(model.path)).expanduser()


def configuration(model: Transformers) -> str:
    """Return the content of the configuration. Raises ConfigError."""
    return _parsed(model)[0]


def has_weights(model: Transformers) -> bool:
    """Return whether the folder has weights that can be read."""
    return any(True for _ in _weights(model))


def averages(model: Transformers) -> bool:
    """Return whether the folder is of sentence-transformers, and the mean over the tokens is its embedding."""
    try:
        found = json.loads((path_of(model) / POOLING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("pooling_mode_mean_tokens") is True


def digest(model: Transformers) -> str:
    """Return the SHA-256 of the configuration and the weights, in hex. Raises ConfigError."""
    configuration(model)
    return contents.digest([path_of(model) / CONFIGURATION, *_weights(model)])


def _weights(model: Transformers) -> Iterator[Path]:
    yield from (path for pattern in WEIGHTS for path in path_of(model).glob(pattern) if path.name != OURS)


def _parsed(model: Transformers) -> tuple[str, object]:
    path = path_of(model) / CONFIGURATION
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
            raise ValueError("it has no field model_type")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.path={model.path} must be a folder of Hugging Face with {CONFIGURATION}, but {path} cannot be read "
            f"({getattr(error, 'strerror', None) or error}); correct the path"
        ) from error
    return text, found

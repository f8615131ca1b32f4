"""Initial weights, read without unpickling: from a file of the user, or from the float network that a run stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.state.files import RECIPE, SAFE_STATE, sha256
from quantexp.state.fitting import EXTRA_STATE, fit
from quantexp.system.errors import ModelError, TrainingError

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
RULE = f"train.checkpoint must be a state dict in a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
# Of several state dicts in a file, the first of these is the network, in the files of Lightning, timm and torchvision.
ENTRIES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "params")


def fill_from_file(model: nn.Module, path: Path) -> None:
    """Fill `model` with the weights in a .safetensors file, or in a file of torch.save that holds a state dict.

    Raises:
        TrainingError: If the file is missing, of another kind, damaged, or does not fit the network.
    """
    if not path.is_file():
        raise TrainingError(f"{RULE}, {path} does not exist")
    state, found = _read(path)
    _fill(model, state, str(path), found)


def fill_from_stored(model: nn.Module, folder: Path, source: str) -> None:
    """Fill `model` with the float32 weights of the stored network in `folder`; `source` names it in errors.

    Raises:
        TrainingError: If the stored network is quantized or cast, damaged, or does not fit the network.
    """
    try:
        state = float_weights(folder)
    except ModelError as error:
        raise TrainingError(f"{source}: {error}") from error
    _fill(model, state, source)


def float_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of the stored network in `folder`, by name. Raises ModelError unless they are float32."""
    from safetensors.torch import load_file

    try:
        recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        options = recipe.get("options", recipe)  # format 3 has no such group
        method, precision = options["quant"]["name"], options["precision"]
        if method != "amp" and (method, precision) != ("none", "fp32"):
            raise ModelError(
                "initial weights must be float32, from a run with quant=amp, or with quant=none and precision=fp32; "
                f"got those of a run with quant={method} and precision={precision}; name the run of its float network. "
                "To predict with this network use quantexp.load"
            )
        if "files" in recipe and sha256(folder / SAFE_STATE) != recipe["files"]["state"]["sha256"]:  # not in format 3
            raise ValueError(f"{SAFE_STATE} is not the file that was stored")
        state = load_file(folder / SAFE_STATE)
    except ModelError:
        raise
    except Exception as error:  # the readers raise many kinds of errors on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"the stored network is damaged ({reason}); download it again") from error
    wrapper = "model." if method == "amp" else ""  # amp stores the network inside a wrapper
    return {name.removeprefix(wrapper): value for name, value in state.items()}


def _fill(model: nn.Module, state: Mapping[str, Any], source: str, found: str = "") -> None:
    notes = [*([found] if found else []), *fit(model, state, source)]
    if notes:
        log.info("train     weights of %s: %s", source, "; ".join(notes))


def _read(path: Path) -> tuple[Mapping[str, Any], str]:
    """Return the state dict in a file, and the note of where in the file it is."""
    from safetensors.torch import load_file

    if path.suffix not in SUFFIXES:
        raise TrainingError(f"{RULE}, got {path.name}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path), ""
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # the readers raise many kinds of errors on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if "Weights only load failed" in reason:  # torch then explains how to load it unsafely
            reason = "it holds more than weights, or is damaged; unpickling it could run code"
        raise TrainingError(
            f"{path} cannot be read as weights ({reason}); save model.state_dict(), "
            "best with safetensors.torch.save_file"
        ) from error
    return _state_in(content, path)


def _state_in(content: Any, path: Path) -> tuple[Mapping[str, Any], str]:
    """Return the state dict in what was saved: all of it, or one of its entries, with a note that names the entry."""
    if _is_state(content):
        return content, ""
    found = dict(_entries(content)) or {
        f"{name}.{inner}": state
        for name, value in (content.items() if isinstance(content, Mapping) else ())
        for inner, state in _entries(value)
    }
    known = [name for entry in ENTRIES for name in found if name.rpartition(".")[2] == entry]
    if not found:
        raise TrainingError(f"{path} must hold a state dict, a mapping of names to tensors; save model.state_dict()")
    if not known and len(found) > 1:
        listed = ", ".join(list(found)[:5])
        raise TrainingError(f"{path} must hold one state dict, it holds {len(found)} ({listed}); save the one you mean")
    name = known[0] if known else next(iter(found))
    return found[name], f"its entry {name}"


def _entries(content: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the entries of a mapping that are state dicts, with their names."""
    if isinstance(content, Mapping):
        yield from ((str(name), value) for name, value in content.items() if _is_state(value))


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and any(isinstance(item, Tensor) for item in value.values())
        and all(
            isinstance(name, str) and (isinstance(item, Tensor) or name.endswith(EXTRA_STATE))
            for name, item in value.items()
        )
    )

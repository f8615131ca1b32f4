"""Initial weights, read without unpickling: from a file of the user, or from the float network that a run stored."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from quantexp.system.errors import ModelError, TrainingError

RECIPE, SAFE_STATE = "recipe.json", "state.safetensors"  # files of a stored network: how to build it, and its state
RULE = "train.checkpoint must be a .safetensors file or a .pt state dict"


def fill_from_file(model: nn.Module, path: Path) -> None:
    """Fill `model` with the weights in a .safetensors file or a .pt state dict.

    Raises:
        TrainingError: If the file is missing, of another kind, damaged, or does not fit the model.
    """
    if not path.is_file():
        raise TrainingError(f"{RULE}, {path} does not exist")
    _fill(model, _read_state(path), str(path))


def fill_from_stored(model: nn.Module, folder: Path, source: str) -> None:
    """Fill `model` with the float32 weights of the stored network in `folder`; `source` names it in errors.

    Raises:
        TrainingError: If the stored network is quantized or cast, damaged, or does not fit the model.
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
                f"got those of a run with quant={method} and precision={precision}"
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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    own = model.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        shown = "; ".join(f"{name}: expected {expected.get(name)}, found {found.get(name)}" for name in wrong[:4])
        raise TrainingError(
            f"{source} does not fit the model ({shown}); use the model and task that it was trained with"
        )
    for name, tensor in state.items():
        kind = (
            tensor.is_floating_point() or tensor.dtype is own[name].dtype
        )  # integers only where the model has them, such as a count of batches
        plain = kind and tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"{source}: weights must be plain tensors of finite floating-point numbers, {name} is not"
            )
    model.load_state_dict(state)


def _read_state(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise TrainingError(f"{RULE}, got {path.name}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # the readers raise many kinds of errors on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if "Weights only load failed" in reason:  # torch then explains how to load it unsafely
            reason = "it holds more than weights, or is damaged; unpickling it could run code"
        raise TrainingError(
            f"{path} cannot be read as weights ({reason}); save model.state_dict(), "
            "best with safetensors.torch.save_file"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TrainingError(f"{path} must hold a state dict, a mapping of names to tensors; save model.state_dict()")
    return state

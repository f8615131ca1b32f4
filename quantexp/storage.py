"""A quantized model on disk: its state beside a recipe in JSON, from which its structure is built again.

    recipe.json   task, model, method, precision and their options, the sizes of input and output
    state.pt      the state dict, read with `weights_only=True`: quantized weights are not safetensors'
    state.safetensors   the same, for models whose state is plain tensors

Nothing that is read is unpickled, and the recipe can name only what quantexp itself has.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from quantexp.config import METHODS, Experiment, Mlp, Model, Option, Quant
from quantexp.errors import ModelError, QuantizationError
from quantexp.quant.engine import use_engine
from quantexp.tasks.base import TaskData

RECIPE, SAFE_STATE, TORCH_STATE = "recipe.json", "state.safetensors", "state.pt"
FORMAT = 1
T = TypeVar("T", bound=Option)
MODELS: tuple[type[Model], ...] = (Mlp,)


@dataclass(frozen=True)
class Recipe:
    """How to build the structure of a stored model."""

    format: int
    task: dict[str, Any]
    model: dict[str, Any]
    quant: dict[str, Any]
    precision: str
    inputs: int
    classes: int

    @classmethod
    def of(cls, experiment: Experiment, data: TaskData) -> Recipe:
        """Return the recipe of the model that an experiment leaves."""
        task, model, quant = (_described(part) for part in (experiment.task, experiment.model, experiment.quant))
        return cls(FORMAT, task, model, quant, str(experiment.precision), data.features, data.classes)


def save(folder: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the model into `folder`. Raises OSError."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    plain = {name: value for name, value in state.items() if isinstance(value, Tensor) and not value.is_quantized}
    if len(plain) == len(state):
        save_file({name: value.detach().clone().contiguous() for name, value in plain.items()}, folder / SAFE_STATE)
    else:
        torch.save(state, folder / TORCH_STATE)
    (folder / RECIPE).write_text(json.dumps(asdict(recipe), indent=1), encoding="utf-8")


def load(run_or_path: str | Path, *, tracking_uri: str | None = None) -> nn.Module:
    """Build a stored model again, ready to predict on the CPU: float32 (batch, features) to (batch, classes).

    Args:
        run_or_path: The id of an MLflow run, or a folder that holds `recipe.json`.
        tracking_uri: Where the run is recorded; by default the SQLite store of the working directory.

    Raises:
        ModelError: If there is no such model, or it is damaged, or quantexp did not write it.
        QuantizationError: If this machine lacks the engine that the model was made for.
        TrackingError: If the run cannot be found.
    """
    folder = Path(run_or_path)
    if (folder / RECIPE).is_file():
        return _read(folder)
    if folder.exists() or len(folder.parts) > 1:
        raise ModelError(f"a stored model is a folder with {RECIPE} in it, {folder} is not")
    from quantexp.tracking.artifacts import model_folder

    with model_folder(str(run_or_path), tracking_uri) as downloaded:
        return _read(downloaded)


def input_width(folder: Path) -> int:
    """Return how many values one example has for the model in `folder`."""
    return _recipe(folder).inputs


def _recipe(folder: Path) -> Recipe:
    recipe = Recipe(**json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    if recipe.format != FORMAT:
        raise ModelError(f"{folder / RECIPE} has format {recipe.format}, this quantexp reads {FORMAT}")
    return recipe


def _read(folder: Path) -> nn.Module:
    try:
        recipe = _recipe(folder)
        quant, network = _option(recipe.quant, METHODS), _option(recipe.model, MODELS)
        with use_engine(quant.packs_for), torch.random.fork_rng(devices=[]):
            model = _structure(quant, network, recipe)
            model.load_state_dict(_state(folder))
    except (ModelError, QuantizationError):
        raise
    except Exception as error:  # damaged bytes make the readers raise whatever they stumble over
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"the model in {folder} is damaged ({reason}); take it from its run again") from error
    return model.eval()


def _structure(quant: Quant, network: Model, recipe: Recipe) -> nn.Module:
    fresh = network.build(recipe.inputs, recipe.classes)
    example = torch.linspace(-1.0, 1.0, 2 * recipe.inputs).view(2, recipe.inputs)
    return quant.skeleton(fresh.eval(), recipe.precision, example)


def _state(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    if (folder / SAFE_STATE).is_file():
        return dict(load_file(folder / SAFE_STATE))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")  # torch's quantized tensors use it
        state = torch.load(folder / TORCH_STATE, weights_only=True, map_location="cpu")
    if not isinstance(state, dict):
        raise TypeError(f"{TORCH_STATE} holds a {type(state).__name__}, not a state dict")
    return state


def _described(option: Option) -> dict[str, Any]:
    return {"name": option.name, **asdict(option)}


def _option(described: dict[str, Any], known: tuple[type[T], ...]) -> T:
    values = dict(described)
    name = values.pop("name", None)
    for cls in known:
        if cls.name == name:
            return cls(**values)
    raise ModelError(f"a stored model may use {', '.join(cls.name for cls in known)}, got {name!r}")

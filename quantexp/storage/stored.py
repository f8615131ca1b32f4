"""A quantized model on disk: its state beside a recipe in JSON, from which its structure is built again.

    recipe.json         task, model, method, precision and their options, the sizes of input and output
    vocabulary.txt      the words that the task counts, one a line; only where it counts any
    state.pt            the state dict, read with `weights_only=True`: quantized weights are not safetensors'
    state.safetensors   the same, for models whose state is plain tensors, or tensors that are made of them

Nothing that is read is unpickled. What a recipe names is built only if it is quantexp's own: a class of
someone else's is imported, and so run, if the caller trusts the recipe, never because the recipe says so.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from quantexp.config import (
    METHODS,
    Custom,
    Experiment,
    Lenet5,
    Mlp,
    Mnist,
    Model,
    Option,
    Quant,
    Sst2,
    Task,
)
from quantexp.models.custom import is_ours
from quantexp.quant.engine import use_engine
from quantexp.state.checkpoint import RECIPE, SAFE_STATE
from quantexp.state.tensors import fill, flat_state
from quantexp.storage.prediction import StoredModel
from quantexp.system.errors import ConfigError, ModelError, QuantizationError
from quantexp.tasks.data import TaskData

VOCABULARY, TORCH_STATE = "vocabulary.txt", "state.pt"
FILES = {RECIPE: 2**20, VOCABULARY: 2**26, SAFE_STATE: 2**33, TORCH_STATE: 2**33}  # the most bytes that are fetched
FORMAT = 3
T = TypeVar("T", bound=Option)
TASKS: tuple[type[Task], ...] = (Mnist, Sst2)
MODELS: tuple[type[Model], ...] = (Mlp, Lenet5, Custom)


@dataclass(frozen=True)
class Recipe:
    """How to build the structure of a stored model, and how its inputs are prepared.

    `task` may be empty: such a model cannot predict on raw inputs.
    """

    format: int
    task: dict[str, Any]
    model: dict[str, Any]
    quant: dict[str, Any]
    precision: str
    inputs: int
    classes: int
    vocabulary: tuple[str, ...] = ()

    @classmethod
    def of(cls, experiment: Experiment, data: TaskData) -> Recipe:
        """Return the recipe of the model that an experiment leaves."""
        task, model, quant = (_described(part) for part in (experiment.task, experiment.model, experiment.quant))
        return cls(FORMAT, task, model, quant, str(experiment.precision), data.features, data.classes, data.vocabulary)


def save(folder: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the model into `folder`. Raises OSError."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = flat_state(model)
    plain = {name: value for name, value in state.items() if isinstance(value, Tensor) and not value.is_quantized}
    if len(plain) == len(state):
        save_file({name: value.detach().clone().contiguous() for name, value in plain.items()}, folder / SAFE_STATE)
    else:
        torch.save(state, folder / TORCH_STATE)
    described = asdict(recipe)
    if words := described.pop("vocabulary"):
        (folder / VOCABULARY).write_bytes("\n".join(words).encode())
    (folder / RECIPE).write_text(json.dumps(described, indent=1), encoding="utf-8")


def load(folder: str | Path, *, trust: bool = False) -> StoredModel:
    """Build the model in `folder` again, ready to predict on the CPU: float32 (batch, features) to (batch, classes).

    Args:
        folder: Holds `recipe.json`.
        trust: Also build a network that is not quantexp's own: its module is imported, which runs its code.

    Raises:
        ModelError: If there is no such model, it is damaged, quantexp did not write it, or it needs trust.
        QuantizationError: If this machine lacks the engine that the model was made for.
    """
    if not (Path(folder) / RECIPE).is_file():
        raise ModelError(f"a stored model is a folder with {RECIPE} in it, {folder} is not")
    return _read(Path(folder), trust)


def input_width(folder: Path) -> int:
    """Return how many values one example has for the model in `folder`."""
    return _recipe(folder).inputs


def _recipe(folder: Path) -> Recipe:
    described = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    if described["format"] != FORMAT:
        raise ModelError(
            f"{folder / RECIPE} has format {described['format']!r}, this quantexp reads {FORMAT}; "
            "make the run again, or load it with the quantexp that wrote it"
        )
    return Recipe(**described, vocabulary=_vocabulary(folder))


def _vocabulary(folder: Path) -> tuple[str, ...]:
    if not (folder / VOCABULARY).is_file():
        return ()
    words = (folder / VOCABULARY).read_bytes().decode().split("\n")
    if wrong := [word for word in words if word.split() != [word]]:
        raise ValueError(f"{VOCABULARY} must hold one word a line, it has {wrong[0]!r}")
    if len(set(words)) < len(words):
        raise ValueError(f"{VOCABULARY} must hold each word once")
    return tuple(words)


def _read(folder: Path, trust: bool) -> StoredModel:
    with _told(folder):
        recipe = _recipe(folder)
        task = _option(recipe.task, TASKS) if recipe.task else None
        if task and task.features(recipe.vocabulary) != recipe.inputs:
            raise ValueError(f"{task.name} gives {task.features(recipe.vocabulary)} values, it takes {recipe.inputs}")
        if task and task.class_names and len(task.class_names) != recipe.classes:
            raise ValueError(f"{task.name} has {len(task.class_names)} classes, it gives {recipe.classes}")
        quant, network = _option(recipe.quant, METHODS), _network(recipe.model, trust)
        state = _state(folder)
        with use_engine(quant.packs_for), torch.random.fork_rng(devices=[]):
            if not trust:
                _refuse_more_than_is_stored(network, recipe, folder)
            model = _structure(quant, network, recipe)
            fill(model, state)
    return StoredModel(model.eval(), task, recipe.vocabulary).eval()


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn whatever the content of `folder` gives rise to into a ModelError."""
    try:
        yield
    except (ModelError, QuantizationError):
        raise
    except ConfigError as error:
        raise ModelError(f"the model in {folder} cannot be built here: {error}") from error
    except Exception as error:  # damaged bytes make the readers raise whatever they stumble over
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"the model in {folder} is damaged ({reason}); take it from its run again") from error


def _refuse_more_than_is_stored(network: Model, recipe: Recipe, folder: Path) -> None:
    """Refuse a network that its state cannot fill, before memory is taken for it: a recipe can ask for any width."""
    with torch.device("meta"):
        parameters = sum(one.numel() for one in network.build(recipe.inputs, recipe.classes).parameters())
    stored = sum(path.stat().st_size for path in folder.glob("state.*"))
    if parameters > 8 * stored:  # no weight takes less than a bit
        raise ValueError(f"it asks for {parameters:,} parameters, its state has {stored:,} bytes")


def _structure(quant: Quant, network: Model, recipe: Recipe) -> nn.Module:
    fresh = network.build(recipe.inputs, recipe.classes)
    example = torch.linspace(-1.0, 1.0, 2 * recipe.inputs).view(2, recipe.inputs)
    return quant.skeleton(fresh.eval(), recipe.precision, example)


def _state(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    if (folder / SAFE_STATE).is_file():
        return dict(load_file(folder / SAFE_STATE))
    with warnings.catch_warnings():
        for message in ("TypedStorage is deprecated", r"torch\.quantize_per_"):  # of torch's own quantized tensors
            warnings.filterwarnings("ignore", message=message)
        state = torch.load(folder / TORCH_STATE, weights_only=True, map_location="cpu")
    if not isinstance(state, dict):
        raise TypeError(f"{TORCH_STATE} holds a {type(state).__name__}, not a state dict")
    return state


def _network(described: dict[str, Any], trust: bool) -> Model:
    for target in (described[key] for key in ("target", "_target_") if key in described):
        if not trust and not is_ours(target):
            raise ModelError(
                f"a stored model may name the networks of quantexp, this one names {target!r}, whose code would run; "
                "if you know where it comes from, load it with trust=True"
            )
    return _option(described, MODELS)


def _described(option: Option) -> dict[str, Any]:
    return {"name": option.name, **asdict(option)}


def _option(described: dict[str, Any], known: tuple[type[T], ...]) -> T:
    values = dict(described)
    name = values.pop("name", None)
    for cls in known:
        if cls.name == name:
            return cls(**values)
    raise ModelError(f"a stored model may use {', '.join(cls.name for cls in known)}, got {name!r}")

"""A quantized network on disk: its state, and a recipe in JSON from which its structure is rebuilt.

    recipe.json         how to rebuild the network, see recipe.py
    vocabulary.txt      the words that the task counts or numbers, one per line; only if there are any
    tokenizer.json      the tokenizer of Hugging Face, if the task has one
    config.json         the configuration of Hugging Face, if the network is built from one
    network.onnx        what the runtime executes, if that is a file
    state.safetensors   the state dict, if it consists of plain tensors or can be split into them
    state.pt            the state dict otherwise (quantized tensors), read with `weights_only=True`

Nothing is unpickled. A recipe may name networks and tasks of quantexp only; other code is imported, and so executed,
only if the caller trusts the recipe.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from quantexp import models, tasks
from quantexp.config import METHODS, MODELS, RUNTIMES, TASKS, CustomTask, Kind, Model, Option, Quant, Task
from quantexp.models.custom import is_ours
from quantexp.quant.engine import use_engine
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.results import InputSpec
from quantexp.runtimes import prepare
from quantexp.runtimes.prepared import Prepared
from quantexp.state import attributes
from quantexp.state.extra import apart
from quantexp.state.files import RECIPE, SAFE_STATE
from quantexp.state.safe_file import SafeFile
from quantexp.state.scratch import Scratch
from quantexp.state.tensors import fill, flat_state
from quantexp.storage.prediction import StoredModel
from quantexp.storage.recipe import TORCH_STATE, Recipe, read, write
from quantexp.system.errors import ConfigError, ModelError, QuantizationError
from quantexp.system.garbage import collect_garbage
from quantexp.tasks.inputs import examples
from quantexp.tasks.preparation import Preparation
from quantexp.training.loop import PREDICT_BATCH

T = TypeVar("T", bound=Option)


class UnknownOptionError(ModelError):
    """A recipe names an option, or a value of one, that is not part of quantexp, such as a flow of the user."""


def save(folder: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the network into `folder`. Raises OSError, and TypeError if part of its state cannot be stored."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state, recipe = flat_state(model), replace(recipe, attributes=attributes.numbers(model))
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and not value.is_quantized}
    if len(tensors) == len(state):
        try:
            save_file(apart(tensors), folder / SAFE_STATE)
        except SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error
        write(folder, recipe, SAFE_STATE)
    else:
        torch.save(state, folder / TORCH_STATE)
        write(folder, recipe, TORCH_STATE)


def load(folder: str | Path, *, trust: bool = False) -> StoredModel:
    """Rebuild the network in `folder`, ready to predict on the CPU: it is called as `model(*batch)`.

    Args:
        folder: The folder with `recipe.json`.
        trust: Also build networks and tasks that are not part of quantexp; this imports and so executes their code.

    Raises:
        ModelError: If the folder has no network, or it is damaged, or needs trust.
        QuantizationError: If this machine does not support the engine of the network.
    """
    if not (Path(folder) / RECIPE).is_file():
        raise ModelError(f"a stored model is a folder that contains {RECIPE}, {folder} does not")
    return _read(Path(folder), trust)


class Executed(nn.Module):
    """A network that another runtime than PyTorch executes; called on tensors, it returns logits."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__()
        self.prepared = prepared

    @torch.inference_mode()
    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.prepared.of_any_size(*batch)
        return logits


def load_executed(folder: str | Path, *, trust: bool = False) -> StoredModel:
    """Rebuild the network in `folder` like `load`, and let the runtime that it was stored for execute it.

    Its file is checked first: it must compute what the network does in PyTorch.

    Raises:
        ModelError, QuantizationError: As `load`.
        ConfigError: If the packages of the runtime are missing.
        BenchmarkError: If it cannot execute the network, or computes something else.
    """
    model, recipe = load(folder, trust=trust), read(Path(folder))
    runtime = next((one for one in RUNTIMES if one.name == recipe.runtime), None)
    if runtime is None or not recipe.exported:
        return model
    prepared = prepare(runtime(), model.network, examples(recipe.inputs, PREDICT_BATCH), exported=recipe.exported)
    model.network = Executed(prepared)
    return model


def inputs_of(folder: Path) -> tuple[InputSpec, ...]:
    """Return the InputSpecs of the network in `folder`."""
    return read(folder).inputs


def _read(folder: Path, trust: bool) -> StoredModel:
    with _explained(folder):
        recipe = read(folder)
        task, kind = _task(recipe, trust), Kind(recipe.kind)
        preparation = _preparation(recipe, task)
        methods = (*METHODS, *_loaded(Quant)) if trust else METHODS
        quant, network = _option(recipe.quant, methods), _network(_located(recipe, folder), trust)
        with use_engine(quant.packs_for), torch.random.fork_rng(devices=[]):
            if not trust:
                _check_parameter_count(network, recipe, folder)
            model = _rebuilt(quant, network, recipe, folder / recipe.files["state"])
            attributes.restore_numbers(model, recipe.attributes)
    return StoredModel(model.eval(), task, kind, preparation).eval()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Convert any error from the content of `folder` to a ModelError."""
    try:
        yield
    except (ModelError, QuantizationError):
        raise
    except ConfigError as error:
        raise ModelError(f"the model in {folder} cannot be built here: {error}") from error
    except Exception as error:  # on damaged files the readers can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"the model in {folder} is damaged ({reason}); download it again") from error


def _task(recipe: Recipe, trust: bool) -> Task | None:
    """Return the task that prepares raw inputs, or None. Raises ValueError if it does not fit the network."""
    if not recipe.task:
        return None
    task = _option(recipe.task, TASKS)
    if isinstance(task, CustomTask):
        return task if trust else None  # only raw inputs need the code of the user
    provided, expected = (
        " and ".join("x".join(map(str, spec.measured)) for spec in specs)
        for specs in (tasks.specs(task, Kind(recipe.kind), recipe.preparation), recipe.inputs)
    )
    if provided != expected:
        raise ValueError(f"{task.name} provides inputs of shape {provided}, the network takes {expected}")
    return task


def _preparation(recipe: Recipe, task: Task | None) -> Preparation:
    """Return what the task needs; older recipes do not have the names of the classes. Raises ValueError."""
    names = recipe.class_names or (tasks.class_names(task) if task else ())
    if names and len(names) != recipe.classes:
        raise ValueError(f"{task.name if task else 'it'} has {len(names)} classes, the network has {recipe.classes}")
    return replace(recipe.preparation, class_names=names)


def _located(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the settings of the network, with the folder of its configuration, if it has one, in place of `path`."""
    return {**recipe.model, "path": str(folder)} if recipe.configuration else recipe.model


def _check_parameter_count(network: Model, recipe: Recipe, folder: Path) -> None:
    """Raise ValueError if the state cannot fill the network: a recipe could name any width and exhaust the memory."""
    with torch.device("meta"):
        fresh = models.build(network, recipe.inputs, recipe.classes)
    parameters = sum(parameter.numel() for parameter in fresh.parameters())
    stored = (folder / recipe.files["state"]).stat().st_size
    if parameters > 8 * stored:  # a weight takes at least one bit
        raise ValueError(f"its recipe describes {parameters:,} parameters, but its state has only {stored:,} bytes")


def _rebuilt(quant: Quant, network: Model, recipe: Recipe, state: Path) -> nn.Module:
    """Return the network with its state. Until they are filled, large weights share memory, unless that fails."""
    scratch = Scratch()
    try:
        return _filled(quant, network, recipe, state, scratch)
    except Exception:  # from code of the user too, which may need weights that differ
        if not scratch.lent:
            raise
    return _filled(quant, network, recipe, state, None)


def _filled(quant: Quant, network: Model, recipe: Recipe, state: Path, scratch: Scratch | None) -> nn.Module:
    with scratch or nullcontext():
        fresh = models.build(network, recipe.inputs, recipe.classes).eval()
    model = skeleton(quant, fresh, Form(recipe.precision, examples(recipe.inputs, 2), recipe.target))
    del fresh
    collect_garbage()  # of the float network that it was made from
    if scratch:
        scratch.settle(model)
    fill(model, _state(state))
    return model


def _state(path: Path) -> Mapping[str, Any]:
    if path.name == SAFE_STATE:
        return SafeFile(path)
    with warnings.catch_warnings():
        for message in ("TypedStorage is deprecated", r"torch\.quantize_per_"):  # from torch's quantized tensors
            warnings.filterwarnings("ignore", message=message)
        state = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(state, dict):
        raise TypeError(f"{path.name} contains a {type(state).__name__}, not a state dict")
    return state


def _network(described: dict[str, Any], trust: bool) -> Model:
    for target in (described[key] for key in ("target", "_target_") if key in described):
        if not trust and not is_ours(target):
            raise ModelError(
                f"a stored model must use a network of quantexp, this one uses {target!r}, "
                "whose code would be executed; if you trust its source, load it with trust=True"
            )
    return _option(described, MODELS)


def _loaded(option: type[T]) -> Iterator[type[T]]:
    """Yield the subclasses of an option that are imported already, such as a method of the user."""
    for cls in option.__subclasses__():
        yield cls
        yield from _loaded(cls)


def _option(described: dict[str, Any], known: tuple[type[T], ...]) -> T:
    values = dict(described)
    name = values.pop("name", None)
    for cls in known:
        if cls.name == name:
            try:
                return cls(**values)
            except ConfigError as error:
                raise UnknownOptionError(f"a stored model cannot be built here: {error}") from error
    raise UnknownOptionError(f"a stored model must use one of {', '.join(cls.name for cls in known)}; got {name!r}")

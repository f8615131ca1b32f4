"""A task of the user: a class, or a function that returns an object, with

    gives             the kind of input, such as "tokens", or several; an attribute of the class or function
    train(), test()   (inputs, labels): inputs are a tensor or a tuple of tensors whose first dimension is the
                      examples, labels are int64; or a `Split`, which makes batches itself
    classes           the number of classes, or `class_names`; default: the largest label plus one
    inputs            a tuple of `InputSpec`; default: taken from the tensors; required for data=synthetic
    objective         an object like those in tasks/objectives/; default: classification
    encode(raw)       raw inputs as a batch; required for prediction with a stored network
    fingerprint       a value that changes when the data change; required if train() returns a `Split`

Only the first two are always required. If the constructor has a parameter `data_dir`, it gets that setting.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quantexp.config import CustomTask, DataRequest, Kind
from quantexp.results import InputSpec
from quantexp.system import own_code
from quantexp.system.errors import ConfigError, ModelError
from quantexp.tasks.data import Split, TaskData, Tensors, calibration_split, held_out
from quantexp.tasks.inputs import Batch, described
from quantexp.tasks.objectives.classification import Classification
from quantexp.tasks.preparation import Preparation

BATCH = 256  # examples of a `Split` of the user that are checked together


def gives(task: CustomTask) -> tuple[Kind, ...]:
    """Return the kinds of input that the user's task provides. Raises ConfigError."""
    return own_kinds("task", task.target, "gives") or (Kind.features,)


def source(task: CustomTask) -> str:
    """Return a digest of the user's code. Raises ConfigError."""
    return own_code.source_digest(own_code.find("task.target", str(task.target)))


def own_kinds(group: str, target: str | None, attribute: str) -> tuple[Kind, ...]:
    """Return the kinds of input that an attribute of the user's code names; empty if it has no such attribute.

    Raises:
        ConfigError: If the target cannot be imported, or the attribute names an unknown kind.
    """
    found = getattr(own_code.find(f"{group}.target", str(target)), attribute, ())
    try:
        return tuple(Kind(name) for name in ([found] if isinstance(found, str) else found))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the attribute `{attribute}` of {group}.target={target} must name kinds of input "
            f"({', '.join(Kind)}), got {found!r}"
        ) from error


def load(task: CustomTask, kind: Kind, request: DataRequest) -> TaskData:
    """Build the user's task and read its splits. Raises ConfigError if the task is not valid."""
    own = _built(task, request)
    train, test = (_split(task, own, name) for name in ("train", "test"))
    classes = _classes(task, own, train, test)
    inputs = _inputs(task, own, train, test)
    fingerprint = _fingerprint(task, own, train, test)  # of all examples, so that it does not depend on the seed
    training_rows, validation_rows = held_out(len(train), request)
    validation = train.take(validation_rows) if len(validation_rows) else None
    train = train.take(training_rows) if len(training_rows) < len(train) else train
    return TaskData(
        train,
        calibration_split(train, test, request),
        test,
        inputs=inputs,
        classes=classes,
        objective=getattr(own, "objective", None) or Classification(classes),
        class_names=_class_names(own),
        fingerprint=fingerprint,
        origin=str(task.target),
        validation=validation,
    )


def inputs(task: CustomTask, kind: Kind) -> tuple[InputSpec, ...]:
    """Return the `inputs` of the user's task. Raises ConfigError if it has none."""
    found = getattr(_built(task, DataRequest()), "inputs", None)
    if found is None:
        raise ConfigError(
            f"data=synthetic needs the attribute `inputs` of task.target={task.target}, it has none; "
            "add a tuple of quantexp.InputSpec"
        )
    return _checked_specs(task, found)


def classes(task: CustomTask) -> int:
    """Return the number of classes of the user's task. Raises ConfigError if it has no such attribute."""
    own = _built(task, DataRequest())
    found = _own_classes(task, own)
    if found is None:
        raise ConfigError(
            f"data=synthetic needs the attribute `classes` of task.target={task.target}, it has none; add it"
        )
    return found


def encode(task: CustomTask, kind: Kind, raw: Any, preparation: Preparation) -> tuple[Batch, bool]:
    """Prepare raw inputs with the user's `encode`. Raises ModelError."""
    own = _built(task, DataRequest())
    if not hasattr(own, "encode"):
        raise ModelError(
            f"task.target={task.target} has no method `encode` to prepare raw inputs; "
            "add it, or call the network on tensors"
        )
    try:
        found = own.encode(raw)
        batch = (found,) if isinstance(found, Tensor) else tuple(found)
    except Exception as error:  # the user's code can raise anything
        raise ModelError(
            f"encode() of task.target={task.target} must return a tensor or a tuple of tensors, but it failed "
            f"({type(error).__name__}: {error}); correct it or its input"
        ) from error
    return batch, False


def _built(task: CustomTask, request: DataRequest) -> Any:
    target = own_code.find("task.target", str(task.target))
    arguments = dict(task.arguments)
    try:
        if "data_dir" in inspect.signature(target).parameters:
            arguments["data_dir"] = request.data_dir
        return target(**arguments)
    except Exception as error:  # the user's code can raise anything
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ConfigError(
            f"task.target={task.target} must build as {target.__name__}({shown}), but it failed "
            f"({type(error).__name__}: {error}); correct it or task.arguments"
        ) from error


def _split(task: CustomTask, own: Any, name: str) -> Split:
    rule = f"{name}() of task.target={task.target} must return (inputs, labels) or a quantexp Split"
    try:
        found = getattr(own, name)()
    except Exception as error:  # the user's code can raise anything
        raise ConfigError(f"{rule}, but it failed ({type(error).__name__}: {error}); correct it") from error
    if isinstance(found, Split):
        split = found
    elif not isinstance(found, tuple) or len(found) != 2:
        raise ConfigError(f"{rule}, got a {type(found).__name__}")
    else:
        split = _tensors(rule, *found)
    labels = split.labels
    if labels is None or labels.dtype is not torch.int64 or labels.dim() != 1 or not len(labels):
        got = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ConfigError(
            f"labels of {name}() of task.target={task.target} must be int64, one for each example; got {got}"
        )
    return split


def _tensors(rule: str, inputs: Any, labels: Any) -> Tensors:
    batch = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(batch, tuple) or not batch or not all(isinstance(tensor, Tensor) for tensor in batch):
        raise ConfigError(f"{rule}, its inputs must be a tensor or a tuple of tensors, got a {type(inputs).__name__}")
    if not isinstance(labels, Tensor):
        raise ConfigError(f"{rule}, its labels must be a tensor, got a {type(labels).__name__}")
    counts = [len(tensor) if tensor.dim() else 0 for tensor in (*batch, labels)]
    if len(set(counts)) > 1:
        raise ConfigError(f"{rule} with the same number of examples, got {counts[:-1]} inputs and {counts[-1]} labels")
    return Tensors(labels.detach().cpu(), tuple(tensor.detach().cpu() for tensor in batch))


def _inputs(task: CustomTask, own: Any, train: Split, test: Split) -> tuple[InputSpec, ...]:
    """Return the user's specs, or specs of the examples; ranges of integers are taken over all examples."""
    own_specs = getattr(own, "inputs", None)
    specs = _checked_specs(task, own_specs) if own_specs is not None else _described(task, train.first(1))
    ranged = own_specs is None and any(spec.low is not None for spec in specs)
    for name, split in (("train", train), ("test", test)):
        for batch in _pieces(split) if ranged else [split.first(1)]:
            found = _described(task, batch)
            if not _fits(specs, found):
                raise ConfigError(
                    f"inputs of {name}() of task.target={task.target} must be {_shown(specs)}, got {_shown(found)}; "
                    "correct them, or its attribute `inputs`, where None stands for a length that varies"
                )
            if ranged:
                specs = tuple(_widened(spec, other) for spec, other in zip(specs, found, strict=True))
    return specs


def _described(task: CustomTask, batch: Batch) -> tuple[InputSpec, ...]:
    try:
        return described(batch)
    except ValueError as error:
        raise ConfigError(f"inputs of task.target={task.target} cannot be used: {error}") from error


def _pieces(split: Split) -> Iterator[Batch]:
    """Yield all examples: as one batch if they are in memory, else in batches of BATCH."""
    if isinstance(split, Tensors):
        yield split.values
    else:
        yield from (batch for batch, _ in split.batches(BATCH))


def _fits(specs: Sequence[InputSpec], found: Sequence[InputSpec]) -> bool:
    return len(specs) == len(found) and all(
        spec.dtype == actual.dtype
        and len(spec.shape) == len(actual.shape)
        and all(size in (None, actual_size) for size, actual_size in zip(spec.shape, actual.shape, strict=True))
        for spec, actual in zip(specs, found, strict=True)
    )


def _widened(spec: InputSpec, other: InputSpec) -> InputSpec:
    """Return the spec with its range extended to include the range of the other."""
    if spec.low is None or spec.high is None or other.low is None or other.high is None:
        return spec
    return replace(spec, low=min(spec.low, other.low), high=max(spec.high, other.high))


def _shown(specs: Sequence[InputSpec]) -> str:
    return " and ".join(f"{spec.dtype} of shape {spec.shape} per example" for spec in specs)


def _checked_specs(task: CustomTask, found: Any) -> tuple[InputSpec, ...]:
    specs = (found,) if isinstance(found, InputSpec) else found
    if not isinstance(specs, tuple | list) or not specs or not all(isinstance(spec, InputSpec) for spec in specs):
        raise ConfigError(f"`inputs` of task.target={task.target} must be a tuple of quantexp.InputSpec, got {found!r}")
    return tuple(specs)


def _own_classes(task: CustomTask, own: Any) -> int | None:
    """Return the number of classes that the user's task states, or None."""
    found = getattr(own, "classes", None)
    if found is None and hasattr(own, "class_names"):
        found = len(own.class_names)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
        raise ConfigError(f"`classes` of task.target={task.target} must be a positive integer, got {found!r}")
    return found


def _classes(task: CustomTask, own: Any, train: Split, test: Split) -> int:
    """Return the number of classes. Raises ConfigError if a label is out of range."""
    labelled = {name: split.labels for name, split in (("train", train), ("test", test)) if split.labels is not None}
    classes = _own_classes(task, own) or 1 + max(int(labels.max()) for labels in labelled.values())
    for name, labels in labelled.items():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ConfigError(
                f"labels of {name}() of task.target={task.target} must be from 0 to {classes - 1}, got {low} to {high}"
            )
    return classes


def _class_names(own: Any) -> tuple[str, ...]:
    return tuple(map(str, getattr(own, "class_names", ())))


def _fingerprint(task: CustomTask, own: Any, train: Split, test: Split) -> str:
    if found := getattr(own, "fingerprint", None):
        return hashlib.sha256(str(found).encode()).hexdigest()
    if not (isinstance(train, Tensors) and isinstance(test, Tensors)):
        raise ConfigError(
            f"task.target={task.target} returns a Split, so it must have an attribute `fingerprint`, "
            "which changes when the data change"
        )
    sha = hashlib.sha256()
    for tensor in (*train.values, *test.values, train.labels, test.labels):
        if tensor is not None:
            sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()

"""The tasks: their data are read from files, split, kept small in memory, and made into batches.

There is one module for each task, with the functions

    load(task, kind, request)            the splits, with that kind of input
    inputs(task, kind)                   the InputSpecs of a network, known without data
    specs(task, kind, preparation)       the same once the data were read; only where they decide it
    classes(task)                        the number of classes, known without data
    encode(task, kind, raw, preparation) raw inputs, prepared as `load` does; a single input is a batch of one

The data set that was loaded last stays in memory, because most runs of a sweep use the same one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quantexp.config import DataRequest, DataSource, Kind, Sentences, Task
from quantexp.system.contents import digest
from quantexp.system.implementation import resolve
from quantexp.tasks.sources import tokenizer_file

if TYPE_CHECKING:
    from quantexp.results import InputSpec
    from quantexp.tasks.data import TaskData
    from quantexp.tasks.files import Source
    from quantexp.tasks.preparation import Preparation

_last_loaded: tuple[object, TaskData] | None = None  # with its key


def sources_of(task: Task) -> Source:
    """Return the source of a task's data: files, or code of the user. Does not import torch."""
    sources: Source = resolve(task.sources)(task)
    return sources


def gives(task: Task) -> tuple[Kind, ...]:
    """Return the kinds of input that a task can provide. Raises ConfigError if the user's code names invalid ones."""
    return task.gives if task.gives is not None else tuple(resolve(task.implementation).gives(task))


def source(task: Task) -> dict[str, str]:
    """Return what identifies a task besides its settings: a digest of the user's code, or of the user's tokenizer."""
    if task.gives is None:
        return {"source": resolve(task.implementation).source(task)}
    if isinstance(task, Sentences) and task.tokenizer is not None:
        return {"tokenizer": digest([tokenizer_file(task.tokenizer)])}  # in place of the path itself
    return {}


def load(task: Task, kind: Kind, request: DataRequest) -> TaskData:
    """Load the splits of a task; reuse those loaded last if neither the request nor the files have changed.

    Raises:
        DataError: If files are missing, damaged or cannot be downloaded.
        ConfigError: If more examples are requested than there are, or the user's code is not a valid task.
    """
    global _last_loaded
    if request.source is DataSource.synthetic:
        from quantexp.tasks import synthetic

        module = resolve(task.implementation)
        return synthetic.load(module.inputs(task, kind), module.classes(task), request)
    from quantexp.tasks.data import calibration_split, evaluated

    drawn = (request.validation, request.examples, request.validation_seed)
    split = drawn if request.validation or request.examples is not None else None
    key = (task.name, repr(task), repr(source(task)), kind, sources_of(task).stamp(request), split)
    if _last_loaded is None or _last_loaded[0] != key:
        _last_loaded = None  # free it first, so that two data sets are never in memory at once
        _last_loaded = key, resolve(task.implementation).load(task, kind, request)
    data = _last_loaded[1]
    calibration = calibration_split(data.train, data.test, request)
    return replace(
        data,
        calibration=calibration,
        test=evaluated(data.test, request),
        validation=evaluated(data.validation, request) if data.validation is not None else None,
    )


def specs(task: Task, kind: Kind, preparation: Preparation) -> tuple[InputSpec, ...]:
    """Return the InputSpecs of a network for data that were read."""
    module = resolve(task.implementation)
    found = getattr(module, "specs", None)
    inputs: tuple[InputSpec, ...] = found(task, kind, preparation) if found else module.inputs(task, kind)
    return inputs


def class_names(task: Task) -> tuple[str, ...]:
    """Return the names of the classes where they are known without data, in the order of the labels."""
    return tuple(getattr(resolve(task.implementation), "CLASS_NAMES", ()))


def encode(task: Task, kind: Kind, raw: Any, preparation: Preparation) -> Any:
    """Prepare raw inputs as `load` does; return the batch, and whether `raw` was a single input. Raises ModelError."""
    return resolve(task.implementation).encode(task, kind, raw, preparation)

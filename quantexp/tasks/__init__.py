"""The data sets: read from files, split, kept small in memory, made into batches.

A module a task, with the functions

    load(task, kind, request)            its splits, in that kind of input
    inputs(task, kind)                   what a network takes, known without data
    counts(words)                        the same where words are counted, of so many
    classes(task)                        the width of a network's output, known without data
    encode(task, kind, raw, vocabulary)  raw inputs prepared as `load` does: one is a batch of one

The data set that was loaded last is kept: the runs of a sweep mostly ask for the same one, and read it once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quantexp.config import DataRequest, DataSource, Kind, Task
from quantexp.system.implementation import resolve

if TYPE_CHECKING:
    from quantexp.results import InputSpec
    from quantexp.tasks.data import TaskData
    from quantexp.tasks.files import Source

_kept: tuple[object, TaskData] | None = None


def sources_of(task: Task) -> Source:
    """Return what finds the files or the code of a task; needs no torch."""
    sources: Source = resolve(task.sources)(task)
    return sources


def gives(task: Task) -> tuple[Kind, ...]:
    """Return the kinds of input that a task can give. Raises ConfigError if its code is the user's and says none."""
    return task.gives if task.gives is not None else tuple(resolve(task.implementation).gives(task))


def source(task: Task) -> dict[str, str]:
    """Return what, beside the settings, tells that a task is the same: a digest of code that is not quantexp's."""
    return {} if task.gives is not None else {"source": resolve(task.implementation).source(task)}


def load(task: Task, kind: Kind, request: DataRequest) -> TaskData:
    """Load a task's splits in a kind of input, from memory if it was loaded last and its files are unchanged.

    Raises:
        DataError: If files are missing, damaged or out of reach.
        ConfigError: If more examples are requested than there are, or the user's own code is not a task.
    """
    global _kept
    if request.source is DataSource.synthetic:
        from quantexp.tasks import synthetic

        module = resolve(task.implementation)
        return synthetic.load(module.inputs(task, kind), module.classes(task), request)
    from quantexp.tasks.data import calibration_split

    held_out = (request.validation, request.validation_seed) if request.validation else None
    key = (task.name, repr(task), kind, sources_of(task).stamp(request), held_out)
    if _kept is None or _kept[0] != key:
        _kept = None  # two data sets need not lie in memory at once
        _kept = key, resolve(task.implementation).load(task, kind, request)
    data = _kept[1]
    return replace(data, calibration=calibration_split(data.train, data.test, request))


def specs(task: Task, kind: Kind, vocabulary: tuple[str, ...]) -> tuple[InputSpec, ...]:
    """Return what a network takes, given the words that are counted if the task counts any."""
    module = resolve(task.implementation)
    counts = getattr(module, "counts", None)
    found: tuple[InputSpec, ...] = counts(len(vocabulary)) if counts else module.inputs(task, kind)
    return found


def encode(task: Task, kind: Kind, raw: Any, vocabulary: tuple[str, ...]) -> Any:
    """Prepare raw inputs as `load` does; return the batch, and whether `raw` was a single input. Raises ModelError."""
    return resolve(task.implementation).encode(task, kind, raw, vocabulary)

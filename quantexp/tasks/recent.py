"""The data set that was loaded last is kept: the runs of a sweep mostly ask for the same one, and read it once."""

from __future__ import annotations

from dataclasses import replace

from quantexp.config import DataRequest, Task
from quantexp.tasks.data import TaskData, calibration_split

_kept: tuple[object, TaskData] | None = None


def load(task: Task, request: DataRequest) -> TaskData:
    """Load a task's splits, from memory if it was loaded last and its files are as they were. Raises as `task.load`."""
    global _kept
    held_out = (request.validation, request.validation_seed) if request.validation else None
    key = (task.name, repr(task), task.stamp(request), held_out)
    if _kept is None or _kept[0] != key:
        _kept = None  # two data sets need not lie in memory at once
        _kept = key, task.load(request)
    data = _kept[1]
    return replace(data, calibration=calibration_split(data.train, data.test, request))

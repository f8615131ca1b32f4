"""The data of an experiment, with the kind of input that its network takes; imports no more than that needs."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from quantexp import models, tasks
from quantexp.config import Experiment, Kind

if TYPE_CHECKING:
    from quantexp.tasks.data import TaskData

log = logging.getLogger(__name__)


def load(experiment: Experiment) -> TaskData:
    """Load the splits of the task, with the kind of input that the network takes; consecutive runs load them once.

    Raises:
        ConfigError: If the network takes no kind of input that the task provides.
        DataError: If the data are missing, damaged or cannot be downloaded.
    """
    task = experiment.task
    data = tasks.load(task, input_kind(experiment), experiment.data_request)
    data = replace(data, evaluation=experiment.evaluation)
    if experiment.labelled:
        train = "train" if experiment.train.examples is None else "train (drawn by train.examples)"
        splits = {train: data.train, "calibration": data.calibration, "validation": data.validation}
    else:
        splits = {"calibration": data.calibration}
    test = "test" if experiment.evaluation_examples is None else "test (drawn by evaluation_examples)"
    rows = (f"{len(split):,} {name}" for name, split in {**splits, test: data.test}.items() if split is not None)
    log.info("data      %s, %s: %s", task.name, data.origin, ", ".join(rows))
    return data


def input_kind(experiment: Experiment) -> Kind:
    """Return the kind of input that the task provides and the network takes. Raises ConfigError if there is none."""
    return models.kind(experiment.task, tasks.gives(experiment.task), experiment.model)

"""Checks before anything heavy starts, without torch."""

from __future__ import annotations

from pathlib import Path

from quantexp import models, tasks
from quantexp.config import Experiment
from quantexp.runner.load import registered_weights
from quantexp.system.errors import TrainingError


def check_inputs(experiment: Experiment) -> None:
    """Check that all inputs exist: the data, the user's own code, weights.

    Raises:
        QuantexpError: DataError, TrainingError, CacheError, ConfigError or TrackingError.
    """
    if not experiment.study.needs_data:
        return
    tasks.sources_of(experiment.task).check(experiment.data_request)
    models.check(experiment.model)
    checkpoint, train = experiment.train.checkpoint, experiment.train
    if train.checkpoint_model:
        registered_weights(experiment)
    elsewhere = train.checkpoint_run or train.torchvision_weights or train.checkpoint_model
    if checkpoint and not elsewhere and not Path(checkpoint).expanduser().is_file():
        raise TrainingError(
            f"train.checkpoint must name a file with weights, there is no file {checkpoint}; "
            "correct the path, or give a run as runs:/RUN_ID, a registered network as models:/NAME@ALIAS, or "
            "torchvision for the weights of model=torchvision"
        )

"""What the tasks that read the user's own files have in common: how they are divided into splits, and described."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantexp.config import DataRequest
from quantexp.system.errors import ConfigError
from quantexp.tasks.classes import Classes, imbalances
from quantexp.tasks.data import Split, TaskData, calibration_split, held_out
from quantexp.tasks.objectives.classification import Classification
from quantexp.tasks.preparation import Preparation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Division:
    """The rows of each split, int64, of examples that are numbered through: those of train, then those of test.

    `origin` says in words what was held out of train for a data set without a test split.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    origin: str = ""


def divided(training: int, testing: int, share: float, request: DataRequest) -> Division:
    """Divide `training` and `testing` examples; without the latter, hold out a share of train as the test split.

    Raises:
        ConfigError: If a split would be empty, or more training examples are requested than there are.
    """
    if testing:
        kept, validation = held_out(training, request)
        return Division(kept, validation, torch.arange(training, training + testing))
    count = round(share * training)
    if not 0 < count < training:
        raise ConfigError(
            f"task.test_share must hold out at least one of {training:,} training examples, and leave one, "
            f"got {share:g}; change it, or add a test split"
        )
    rows = torch.randperm(training, generator=torch.Generator().manual_seed(request.validation_seed))
    rest = rows[count:].sort().values
    kept, validation = held_out(len(rest), request)
    origin = f", {100 * share:g} % of train held out as test"
    return Division(rest[kept], rest[validation], rows[:count].sort().values, origin)


def task_data(
    division: Division,
    make: Callable[[Tensor], Split],
    labels: Tensor,
    classes: Classes,
    request: DataRequest,
    *,
    preparation: Preparation,
    fingerprint: str,
) -> TaskData:
    """Return the splits of a task, and warn of classes that are very unequal.

    Args:
        division: The rows of each split.
        make: Returns a split of these rows.
        labels: The labels of all examples.
        classes: The classes.
        request: Which examples are needed.
        preparation: What prepares raw inputs.
        fingerprint: A digest of the files.
    """
    train, test = make(division.train), make(division.test)
    trained, tested = (
        labels[rows].bincount(minlength=len(classes.values)).tolist() for rows in (division.train, division.test)
    )
    findings = tuple(imbalances(trained, tested, classes))
    for finding in findings:
        log.warning("%s", finding.text)
    return TaskData(
        train,
        calibration_split(train, test, request),
        test,
        inputs=preparation.inputs,
        classes=len(classes.values),
        objective=Classification(len(classes.values)),
        fingerprint=fingerprint,
        origin=f"data_dir {request.data_dir}{division.origin}",
        vocabulary=preparation.vocabulary,
        tokenizer=preparation.tokenizer,
        class_names=classes.names,
        findings=findings,
        validation=make(division.validation) if len(division.validation) else None,
    )

"""The identity of a run, computed from its experiment, its data and this machine.

Where data and models lie, where runs are recorded and the name of a sweep are not part of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantexp.config import Experiment, Single
from quantexp.results.identity import Identity

GROUPS = ("task", "model", "quant", "train", "benchmark")
VALUES = ("precision", "batch_size", "data", "validation", "evaluation", "seed")
NOT_IN_IDENTITY = ("resume",)  # of a study: whether it resumes does not change its result
PACKAGES = ("quantexp", "torch", "torchao")


def identity_of(experiment: Experiment, data_fingerprint: str) -> Identity:
    """Return the identity of a run of `experiment` on these data, here and now."""
    from quantexp.system.environment import describe
    from quantexp.training.loop import resolve_threads

    machine = describe()
    return Identity(
        configuration=configuration(experiment),
        data_fingerprint=data_fingerprint,
        versions={name: machine.packages[name] for name in PACKAGES},
        host=machine.host,
        cpu=machine.cpu,
        threads={"train": resolve_threads(experiment.train.threads), "benchmark": experiment.benchmark.threads},
    )


def configuration_digest(experiment: Experiment) -> str:
    """SHA-256 of the configuration alone, in hex: known before any data are read."""
    return hashlib.sha256(json.dumps(configuration(experiment), sort_keys=True).encode()).hexdigest()


def configuration(experiment: Experiment) -> dict[str, Any]:
    """Return the settings that a result depends on, each option with the name of its class."""
    options = {group: getattr(experiment, group) for group in GROUPS}
    described = {group: {"name": option.name, **asdict(option)} for group, option in options.items()}
    described["model"] |= experiment.model.source()
    described["train"]["checkpoint"] = _weights(experiment.train.checkpoint)
    if not isinstance(experiment.study, Single):
        settings = {name: value for name, value in asdict(experiment.study).items() if name not in NOT_IN_IDENTITY}
        described["study"] = {"name": experiment.study.name, **settings}
    values: dict[str, Any] = {name: getattr(experiment, name) for name in VALUES}
    plain: dict[str, Any] = json.loads(json.dumps({**described, **values}))
    return plain


def _weights(checkpoint: str | None) -> str | None:
    """Name the user's own weights by their content, as the file may change."""
    path = Path(checkpoint).expanduser() if checkpoint else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else checkpoint

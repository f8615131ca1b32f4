"""The identity of a run, computed from its experiment, its data and this machine.

The location of data and networks, the store and the name of a sweep are not part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantexp import models, tasks
from quantexp.config import GROUPS, NOTHING, RESULT, WEIGHTS, Experiment, Single, affects
from quantexp.results.identity import Identity
from quantexp.runner.load import registered_weights
from quantexp.state.files import sha256

PACKAGES = ("quantexp", "torch", "torchao")


def identity_of(experiment: Experiment, data_fingerprint: str) -> Identity:
    """Return the identity of a run of `experiment` on these data, on this machine with these versions."""
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
    """Return the SHA-256 of the configuration alone, in hex; it is known before data are read."""
    return hashlib.sha256(json.dumps(configuration(experiment), sort_keys=True).encode()).hexdigest()


def without_machine(configuration: str, data_fingerprint: str, versions: Mapping[str, str]) -> str:
    """Return a text of what a result depends on, except the machine; `configuration` is the digest of it."""
    return " ".join([configuration, data_fingerprint, *(f"{name}={versions[name]}" for name in PACKAGES)])


def configuration(experiment: Experiment) -> dict[str, Any]:
    """Return the settings that a result depends on, each option with its name; users' code and weights by a digest."""
    options = {group: getattr(experiment, group) for group in GROUPS if affects(group) is not NOTHING}
    if isinstance(experiment.study, Single):
        del options["study"]
    described: dict[str, Any] = {
        group: {"name": option.name, **option.settings(WEIGHTS, RESULT)} for group, option in options.items()
    }
    described["model"] |= models.source(experiment.model)
    described["task"] |= tasks.source(experiment.task)
    described["train"]["checkpoint"] = _weights(experiment)
    return {**described, **experiment.settings(WEIGHTS, RESULT)}


def _weights(experiment: Experiment) -> str | None:
    """Return a digest of weights in a file or in the registry, where others may come under the same name."""
    checkpoint = experiment.train.checkpoint
    if checkpoint is None:
        return None
    if registered := registered_weights(experiment):
        return registered
    path = Path(checkpoint).expanduser()
    return sha256(path) if path.is_file() else checkpoint

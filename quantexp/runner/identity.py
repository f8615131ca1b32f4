"""What makes two runs the same: configuration, data, versions, machine. Its digest tells which runs are done.

Where data and models lie, where runs are recorded and what a sweep is called tell no two results apart.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantexp.config import Experiment, Single

GROUPS = ("task", "model", "quant", "train", "benchmark")
VALUES = ("precision", "batch_size", "data", "validation", "evaluation", "seed")
OF_NO_ACCOUNT = ("resume",)  # of a study: whether it goes on tells no two results apart
PACKAGES = ("quantexp", "torch", "torchao")


@dataclass(frozen=True)
class Identity:
    """What a result depends on. Two runs with equal digests need not both be made.

    `configuration` has an entry for each option, with its class's name among its settings, and one for each
    plain value; `threads` are those of training and of measuring.
    """

    configuration: dict[str, Any]
    data_fingerprint: str
    versions: dict[str, str]
    host: str
    cpu: str
    threads: dict[str, int]

    @classmethod
    def of(cls, experiment: Experiment, data_fingerprint: str) -> Identity:
        """Return the identity of a run of `experiment` on these data, here and now."""
        from quantexp.system.environment import describe
        from quantexp.training.loop import resolve_threads

        machine = describe()
        return cls(
            configuration=configuration(experiment),
            data_fingerprint=data_fingerprint,
            versions={name: machine.packages[name] for name in PACKAGES},
            host=machine.host,
            cpu=machine.cpu,
            threads={"train": resolve_threads(experiment.train.threads), "benchmark": experiment.benchmark.threads},
        )

    @classmethod
    def from_json(cls, text: bytes | str) -> Identity:
        """Read what `to_json` wrote. Raises ValueError."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_json(text)

    def to_json(self) -> str:
        """Return the identity as JSON, the same text for the same identity."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


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
        settings = {name: value for name, value in asdict(experiment.study).items() if name not in OF_NO_ACCOUNT}
        described["study"] = {"name": experiment.study.name, **settings}
    values: dict[str, Any] = {name: getattr(experiment, name) for name in VALUES}
    plain: dict[str, Any] = json.loads(json.dumps({**described, **values}))
    return plain


def _weights(checkpoint: str | None) -> str | None:
    """Name the user's own weights by their content, as the file may change."""
    path = Path(checkpoint).expanduser() if checkpoint else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else checkpoint

"""What the jobs of a sweep share in files of its directory, as launchers may run them in any process.

`sweep.json` holds what each job must know; each job leaves its outcome in a file of its own folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quantexp.config import Experiment, Retry
from quantexp.results.sweep import UnsupportedEntry
from quantexp.system.errors import CacheError

STATE, OUTCOME = "sweep.json", "outcome.json"


@dataclass(frozen=True)
class Plan:
    """How many combinations are run, the numbers of the jobs that are not, and those that do not exist.

    The jobs that are left out are those that do not exist, and those equal to an earlier one.
    """

    runs: int
    left_out: tuple[int, ...] = ()
    unsupported: tuple[UnsupportedEntry, ...] = ()

    def __str__(self) -> str:
        equal = len(self.left_out) - len(self.unsupported)
        parts = [f"{equal} equal to one of them"] if equal else []
        parts += [f"{len(self.unsupported)} that do not exist"] if self.unsupported else []
        return f"{self.runs} combinations{'; left out: ' if parts else ''}{', '.join(parts)}"


@dataclass(frozen=True)
class JobOutcome:
    """What became of one job: "done", "skipped" or "failed", what was asked for, and the error if it failed."""

    state: str
    asked: str
    error: str | None = None

    def write(self, job: Path) -> None:
        """Write the outcome into the folder of its job. Raises CacheError."""
        _write(job / OUTCOME, asdict(self))


@dataclass(frozen=True)
class Ongoing:
    """A sweep that goes on: its parent run, how many combinations it runs, and what stood in the store before.

    `done` has the name of each finished run by its identity, `failed` the configurations whose last run failed,
    `left_out` the numbers of the jobs that are not run, for they do not exist or are equal to another.
    """

    name: str
    parent: str
    total: int
    retry: Retry
    done: dict[str, str]
    failed: list[str]
    left_out: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Ongoing:
        """Read what the process that began the sweep wrote."""
        values: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return cls(**{**values, "retry": Retry(values["retry"])})

    def write(self, folder: Path) -> None:
        """Write the file that `read` reads. Raises CacheError."""
        _write(folder / STATE, asdict(self))

    def place(self, number: int) -> int:
        """Return the place of a job among those that are run, from 1 on."""
        return number + 1 - sum(other < number for other in self.left_out)

    def left(self, outcomes: Sequence[JobOutcome]) -> int:
        """Count the combinations that have no outcome; a sweeper of another kind may make more than were foreseen."""
        return max(0, self.total - len(outcomes))

    def reason_to_skip(self, experiment: Experiment) -> str | None:
        """Say why the combination need not be run, None if it must be. Raises DataError."""
        from quantexp.runner.identity import configuration_digest, identity_of

        if self.done and experiment.study.needs_data:  # what needs none is done again as fast
            from quantexp.mission import load

            identity = identity_of(experiment, load(experiment).fingerprint)
            if name := self.done.get(identity.digest):
                return f"done before: {name}"
        if self.retry is Retry.failed and configuration_digest(experiment) not in self.failed:
            return "left: sweep.retry=failed repeats only what failed"
        return None


def read_outcomes(folder: Path) -> list[JobOutcome]:
    """Return what the jobs left, by the number of the job."""
    paths = sorted(folder.glob(f"*/{OUTCOME}"), key=lambda path: (len(path.parent.name), path.parent.name))
    return [JobOutcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def forget_outcomes(folder: Path) -> None:
    """Remove what the jobs of an earlier sweep in the same directory left."""
    for path in folder.glob(f"*/{OUTCOME}"):
        path.unlink()


def _write(path: Path, values: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    except OSError as error:
        raise CacheError(
            f"{path} cannot be written ({error.strerror or error}); the runs themselves are recorded in MLflow. "
            "Choose another folder with hydra.sweep.dir=FOLDER"
        ) from error

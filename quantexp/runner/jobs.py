"""Files in the directory of a sweep that its jobs share, as launchers may run them in any process.

`sweep.json` has what each job must know; each job writes its outcome to a file in its own folder.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from quantexp.config import Experiment, Retry
from quantexp.results.sweep import UnsupportedEntry
from quantexp.system.errors import CacheError

STATE, OUTCOME, RUNNING = "sweep.json", "outcome.json", ".running"


@dataclass(frozen=True)
class Plan:
    """How many combinations are run, the numbers of the jobs that are not, and the unsupported combinations.

    The jobs that are left out are those that are not supported, and those equal to an earlier one.
    """

    runs: int
    left_out: tuple[int, ...] = ()
    unsupported: tuple[UnsupportedEntry, ...] = ()

    def __str__(self) -> str:
        equal = len(self.left_out) - len(self.unsupported)
        parts = [f"{equal} equal to another"] if equal else []
        parts += [f"{len(self.unsupported)} not supported"] if self.unsupported else []
        return f"{self.runs} combinations{'; left out: ' if parts else ''}{', '.join(parts)}"


@dataclass(frozen=True)
class JobOutcome:
    """The outcome of a job: "done", "skipped" or "failed", its overrides, and the error if it failed.

    `objectives` has the values of `sweep.objective`, None if it has none or the job failed.
    """

    state: str
    asked: str
    error: str | None = None
    objectives: list[float] | None = None

    def write(self, job: Path) -> None:
        """Write the outcome into the folder of its job. Raises CacheError."""
        _write(job / OUTCOME, asdict(self))


@dataclass(frozen=True)
class Ongoing:
    """A sweep that is running: its parent run, how many combinations it runs, and what it finished before.

    `done` has the name of each finished run by its identity, `failed` the configurations whose last run failed,
    `left_out` the numbers of the jobs that are not run, as they are not supported or equal to another. `elsewhere` has
    the host and the name of each run that finished, by what its result depends on beside the machine. `objectives`
    are the names of metrics that a sweeper improves.
    """

    name: str
    parent: str
    total: int
    retry: Retry
    done: dict[str, str]
    failed: list[str]
    left_out: list[int] = field(default_factory=list)
    elsewhere: dict[str, list[str]] = field(default_factory=dict)
    objectives: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Ongoing:
        """Read the file that the process which began the sweep wrote. Raises CacheError."""
        try:
            values: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        except OSError as error:
            raise CacheError(
                f"the directory of the sweep, {folder}, is not readable on {platform.node()} ({error.strerror}); "
                "all hosts that run its jobs must have it under the same path"
            ) from error
        return cls(**{**values, "retry": Retry(values["retry"])})

    def write(self, folder: Path) -> None:
        """Write the file that `read` reads. Raises CacheError."""
        _write(folder / STATE, asdict(self))

    def place(self, number: int) -> int:
        """Return the position of a job among those that are run, from 1 on."""
        return number + 1 - sum(other < number for other in self.left_out)

    def left(self, outcomes: Sequence[JobOutcome]) -> int:
        """Count the combinations without an outcome; other sweepers may make more jobs than planned."""
        return max(0, self.total - len(outcomes))

    def reason_to_skip(self, experiment: Experiment) -> str | None:
        """Return why the combination is skipped, None if it must be run. Raises DataError."""
        from quantexp.runner.identity import configuration_digest, identity_of, without_machine

        if (self.done or self.elsewhere) and experiment.study.needs_data:  # without data, running again is as fast
            from quantexp.mission import load

            identity = identity_of(experiment, load(experiment).fingerprint)
            if name := self.done.get(identity.digest):
                return f"finished before: {name}"
            alike = without_machine(configuration_digest(experiment), identity.data_fingerprint, identity.versions)
            host, name = self.elsewhere.get(alike, (identity.host, ""))
            if host != identity.host:
                return f"finished before on {host}: {name}"
        if self.retry is Retry.failed and configuration_digest(experiment) not in self.failed:
            return "sweep.retry=failed runs only what failed before"
        return None


@dataclass(frozen=True)
class Mark:
    """A file that a worker touches while its job runs, so that other hosts see that a job was lost.

    `process` is the mark of the process that runs the job.
    """

    PERIOD_SECONDS: ClassVar[float] = 5.0

    path: Path
    process: str
    asked: str

    @classmethod
    def write(cls, sweep: Path, number: int, pid: int, asked: str) -> Self:
        """Mark the job with this number as running in the process `pid`. Raises CacheError."""
        from quantexp.tracking.processes import mark

        made = cls(sweep / RUNNING / f"{number}.json", mark(pid), asked)
        _write(made.path, {"process": made.process, "asked": asked})
        return made

    @classmethod
    def all(cls, sweep: Path) -> Iterator[Self]:
        """Yield the marks of a sweep."""
        for path in (sweep / RUNNING).glob("*.json"):
            with suppress(OSError, ValueError):  # removed or not complete yet
                yield cls(path, **json.loads(path.read_text(encoding="utf-8")))

    @property
    def number(self) -> int:
        """The number of the job."""
        return int(self.path.stem)

    @property
    def touched(self) -> float:
        """When it was touched, by the clock of the file system."""
        with suppress(OSError):
            return self.path.stat().st_mtime
        return 0.0

    def touch(self) -> None:
        """Tell that the job still runs."""
        with suppress(OSError):
            os.utime(self.path)

    def remove(self) -> None:
        """Tell that the job does not run any more."""
        with suppress(OSError):
            self.path.unlink()


def read_outcomes(folder: Path) -> list[JobOutcome]:
    """Return the outcomes of the jobs, by the number of the job."""
    paths = sorted(folder.glob(f"*/{OUTCOME}"), key=lambda path: (len(path.parent.name), path.parent.name))
    return [JobOutcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def forget_outcomes(folder: Path) -> None:
    """Remove the outcomes and marks of an earlier sweep in the same directory."""
    for path in [*folder.glob(f"*/{OUTCOME}"), *folder.glob(f"{RUNNING}/*.json")]:
        path.unlink(missing_ok=True)


def _write(path: Path, values: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    except OSError as error:
        raise CacheError(
            f"{path} is not writable ({error.strerror or error}); the runs themselves are recorded in MLflow. "
            "Choose another folder with hydra.sweep.dir=FOLDER"
        ) from error

"""Files in the directory of a sweep that its jobs share, as launchers may run them in any process.

`sweep.json` has what each job must know. Each combination has a file in `outcomes/`, named by the digest of its values:
the job that runs it creates the file when it starts and replaces it when it ends, so that a killed job is noticed.
Hydra's folders of the jobs are not used, as a user may place them anywhere.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from quantexp.config import Experiment, Retry, SweepSettings, Tracking
from quantexp.system.cache import write_atomically
from quantexp.system.errors import CacheError
from quantexp.system.passwords import without_password

if TYPE_CHECKING:
    from quantexp.results.sweep import UnsupportedEntry

STATE, OUTCOMES = "sweep.json", "outcomes"


class State(StrEnum):
    """The state of a job; one that is still running when the sweep ends was killed."""

    running = "running"
    done = "done"
    skipped = "skipped"
    failed = "failed"


def values_digest(experiment: Experiment) -> str:
    """Return a digest of all values of an experiment, by which a job is matched with its combination."""
    return hashlib.sha256(repr(experiment.filled(sweep=None)).encode()).hexdigest()[:32]


def fixed_settings(tracking: Tracking, sweep: SweepSettings) -> dict[str, str]:
    """Return the settings that must be the same in all jobs of a sweep, without passwords.

    Results that wait for their store may wait in several folders, as those of several cache folders do.
    """
    groups = {"tracking": replace(tracking, keep_in=None), "sweep": sweep}
    values = {f"{group}.{name}": value for group, option in groups.items() for name, value in asdict(option).items()}
    return {name: str(without_password(value)) for name, value in {"tracking": tracking.name, **values}.items()}


def varied(fixed: Mapping[str, str], experiment: Experiment) -> str | None:
    """Say which setting of a job is not that of its sweep; None if there is none."""
    for name, value in fixed_settings(experiment.tracking, experiment.sweep).items():
        if value != fixed.get(name):
            return (
                f"{name} must be the same in all jobs of a sweep, as one place has its report and its runs; "
                f"got {fixed.get(name)} and {value}. Start a sweep for each"
            )
    return None


@dataclass(frozen=True)
class Plan:
    """What a sweep runs: the overrides of each combination by the digest of its values, and what it leaves out.

    `combinations` is None if the sweeper chooses them while it runs. `equal` counts those that are equal to another.
    `kept_in` has the folders in which their results wait for the store, as `tracking.keep_in` names them.
    """

    combinations: dict[str, str] | None
    equal: int = 0
    unsupported: tuple[UnsupportedEntry, ...] = ()
    kept_in: tuple[str | None, ...] = ()

    @property
    def runs(self) -> int:
        """How many combinations are run, as far as they are known."""
        return len(self.combinations or ())

    def __str__(self) -> str:
        if self.combinations is None:
            return "the sweeper chooses the combinations"
        parts = [f"{self.equal} equal to another"] if self.equal else []
        parts += [f"{len(self.unsupported)} not supported"] if self.unsupported else []
        return f"{self.runs} combinations{'; left out: ' if parts else ''}{', '.join(parts)}"


@dataclass(frozen=True)
class JobOutcome:
    """The state of a job, its overrides, its number, and the error if it failed.

    `objectives` has the values of `sweep.objective`, None if it has none or the job failed. `configuration` is the
    digest of the configuration of a single run that is done, by which its result is found.
    """

    state: State
    asked: str
    number: int
    error: str | None = None
    objectives: list[float] | None = None
    configuration: str | None = None

    @classmethod
    def restored(cls, values: dict[str, Any]) -> Self:
        """Return the outcome whose fields are these, as JSON has them."""
        return cls(**{**values, "state": State(values["state"])})

    def claim(self, folder: Path, digest: str) -> bool:
        """Create the file of a combination; return False if a job of the sweep has created it. Raises CacheError."""
        path = _outcome_file(folder, digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                json.dump(asdict(self), file, indent=1)
        except FileExistsError:
            return False
        except OSError as error:
            raise _not_writable(path, error) from error
        return True

    def write(self, folder: Path, digest: str) -> None:
        """Write the outcome in place of the file that the job created. Raises CacheError."""
        write_json(_outcome_file(folder, digest), asdict(self))


@dataclass(frozen=True)
class Ongoing:
    """A sweep that is running: its parent run, what it runs, and what it finished before.

    `planned` has the overrides of each combination by its digest, None if the sweeper chooses them while it runs;
    `done` has the name of each finished run by its identity, `failed` the configurations whose last run failed.
    `folder` is the working directory of its command, `fixed` the settings that must not vary. If `skips`, jobs that
    are not supported are skipped. `elsewhere` has the host and the name of each run that finished, by what its result
    depends on beside the machine. `objectives` are the names of what a sweeper improves, `kept_in` the folders in
    which results wait for the store.
    """

    name: str
    parent: str
    planned: dict[str, str] | None
    retry: Retry
    done: dict[str, str]
    failed: list[str]
    folder: str = ""
    fixed: dict[str, str] = field(default_factory=dict)
    skips: bool = False
    elsewhere: dict[str, list[str]] = field(default_factory=dict)
    objectives: list[str] = field(default_factory=list)
    kept_in: list[str | None] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Ongoing:
        """Read the file that the process which began the sweep wrote. Raises CacheError."""
        try:
            status = (folder / STATE).stat()
            return _read_ongoing(folder / STATE, (status.st_ino, status.st_mtime_ns, status.st_size))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CacheError(
                f"{folder / STATE} cannot be read ({error}); the start of a sweep writes it, and each of its jobs must "
                "see it: jobs on other hosts need a shared folder, given as hydra.sweep.dir=FOLDER"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the file that `read` reads. Raises CacheError."""
        write_json(folder / STATE, asdict(self))

    def missing(self, outcomes: dict[str, JobOutcome]) -> list[str]:
        """Return the overrides of the combinations without a result: planned and not begun, or begun and not ended."""
        running = {digest: outcome.asked for digest, outcome in outcomes.items() if outcome.state is State.running}
        ahead = {digest: asked for digest, asked in (self.planned or {}).items() if digest not in outcomes}
        return [*running.values(), *ahead.values()]

    def counts(self, outcomes: dict[str, JobOutcome]) -> dict[str, int]:
        """Count the combinations that are done, that failed, and that are left."""
        states = Counter(outcome.state for outcome in outcomes.values())
        done = states[State.done] + states[State.skipped]
        return {"done": done, "failed": states[State.failed], "left": len(self.missing(outcomes))}

    def total(self, outcomes: dict[str, JobOutcome]) -> int:
        """Count the combinations; sweepers may make other jobs than planned."""
        return len({*(self.planned or {}), *outcomes})

    def reason_to_skip(self, experiment: Experiment) -> str | None:
        """Return why the combination is skipped, None if it must be run. Raises DataError."""
        from quantexp.runner.identity import configuration_digest, identity_of, without_machine

        if (self.done or self.elsewhere) and experiment.study.needs_data:  # without data, running again is as fast
            from quantexp.loading import load

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


@functools.lru_cache(maxsize=1)  # it has all combinations, and each job of a process reads it several times
def _read_ongoing(path: Path, version: tuple[int, ...]) -> Ongoing:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Ongoing(**{**values, "retry": Retry(values["retry"])})


def begun(folder: Path) -> int:
    """Count the combinations of a sweep whose job has begun."""
    with os.scandir(folder / OUTCOMES) as entries:  # a tenth of the time of glob
        return sum(entry.name.endswith(".json") for entry in entries)


def read_outcomes(folder: Path) -> dict[str, JobOutcome]:
    """Return the outcomes of the jobs by the digest of their combination, in the order of the jobs."""
    found: dict[str, JobOutcome] = {}
    for path in (folder / OUTCOMES).glob("*.json"):
        try:
            found[path.stem] = JobOutcome.restored(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):  # its job was killed while it created the file
            found[path.stem] = JobOutcome(State.running, path.name, 0)
    return dict(sorted(found.items(), key=lambda item: item[1].number))


def forget_outcomes(folder: Path) -> None:
    """Remove the outcomes of an earlier sweep in the same directory. Raises CacheError."""
    for path in (folder / OUTCOMES).glob("*.json"):
        try:
            path.unlink()
        except OSError as error:
            raise _not_writable(path, error) from error


def _outcome_file(folder: Path, digest: str) -> Path:
    return folder / OUTCOMES / f"{digest}.json"


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file of a sweep. Raises CacheError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(values, indent=1).encode())
    except OSError as error:
        raise _not_writable(path, error) from error


def _not_writable(path: Path, error: OSError) -> CacheError:
    return CacheError(
        f"{path} is not writable ({error.strerror or error}); the runs themselves are recorded in MLflow. "
        "Choose another folder with hydra.sweep.dir=FOLDER"
    )

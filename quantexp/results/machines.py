"""Finished runs of several machines as their stores hold them, each with the machine that it recorded."""

from __future__ import annotations

from dataclasses import dataclass, field

from quantexp.results.identity import Identity
from quantexp.results.report import Report
from quantexp.results.sweep import UnreadableEntry


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """A machine and its versions, as a run recorded them in `environment.json`; what it did not record is empty.

    `openmp` has the variables that define how threads wait, `torch_build` what the kernels of torch depend on.
    """

    cpu: str = ""
    cores: int | None = None
    cpu_quota: float | None = None
    instruction_sets: tuple[str, ...] = ()
    memory_gb: float | None = None
    virtual: str | None = None
    governor: str | None = None
    turbo: bool | None = None
    system: str = ""
    python: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    torch_build: dict[str, str] = field(default_factory=dict)
    openmp: dict[str, str] = field(default_factory=dict)
    compiler: str | None = None

    @classmethod
    def from_json(cls, text: bytes | str) -> MachineFacts:
        """Read the facts that are known here from an environment as JSON. Raises ValueError."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_json(text)


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A finished run: its store, its flat settings as text, and the files of its record.

    `settings` has files and users' code as digests, so that they are equal where machines have them in other folders.
    `benchmark` is the chosen protocol, which is not among the settings, nor are the threads of training.
    """

    store: str
    run_id: str
    name: str
    settings: dict[str, str]
    benchmark: str
    report: Report
    identity: Identity
    facts: MachineFacts


@dataclass(frozen=True, slots=True)
class RecordedRuns:
    """The finished runs of some stores in the order in which they were started, store by store.

    `failed` counts the runs of each store that ended in an error, `repeated` the runs that a store before it has too.
    """

    stores: tuple[str, ...]
    runs: tuple[RecordedRun, ...]
    unreadable: tuple[UnreadableEntry, ...] = ()
    failed: dict[str, int] = field(default_factory=dict)
    repeated: int = 0

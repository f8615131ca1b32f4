"""The results of a sweep: its combinations, each with its report or error. Tables, plots and pages are made from it."""

from __future__ import annotations

from dataclasses import dataclass

from quantexp.results.report import Report


@dataclass(frozen=True, slots=True)
class Entry:
    """One combination: its run, its flat configuration as text, and its report or its error.

    `settings` holds every setting by its path, as recorded: {"task": "mnist", "model.hidden": "[1024, 1024]"};
    `configuration` is the digest of those that its result depends on, empty if the run does not have it.
    """

    run_id: str
    name: str
    settings: dict[str, str]
    report: Report | None
    error: str | None = None
    configuration: str = ""


@dataclass(frozen=True, slots=True)
class UnsupportedEntry:
    """A combination that is not supported: its overrides, its settings, and the reason."""

    asked: tuple[str, ...]
    settings: dict[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class UnreadableEntry:
    """A recorded part of a sweep that cannot be read now, such as the report of a run, and the reason."""

    run_id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A sweep as the store holds it: its command, its combinations, and the number of those that remain (`left`).

    Unsupported combinations count neither as remaining nor as failed. Combinations that finished but whose report
    cannot be read count neither as finished nor as failed. `objectives` are the names of what a search improved.
    """

    name: str
    command: str
    entries: tuple[Entry, ...]
    left: int = 0
    unsupported: tuple[UnsupportedEntry, ...] = ()
    unreadable: tuple[UnreadableEntry, ...] = ()
    objectives: tuple[str, ...] = ()

    @property
    def reports(self) -> tuple[Report, ...]:
        """The reports of the finished combinations."""
        return tuple(entry.report for entry in self.entries if entry.report)

    @property
    def failed(self) -> tuple[Entry, ...]:
        """The combinations that ended in an error."""
        return tuple(entry for entry in self.entries if entry.report is None)

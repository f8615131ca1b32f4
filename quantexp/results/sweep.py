"""What a sweep found out: its combinations, each with what came of it. Tables, pictures and pages are made from it."""

from __future__ import annotations

from dataclasses import dataclass

from quantexp.results.report import Report


@dataclass(frozen=True, slots=True)
class Entry:
    """One combination: the run that tried it, its flat configuration as text, and its report or its error.

    `settings` holds every setting by its path, as recorded: {"task": "mnist", "model.hidden": "[1024, 1024]"}.
    """

    run_id: str
    name: str
    settings: dict[str, str]
    report: Report | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class UnsupportedEntry:
    """A combination that does not exist: what was asked for, override by override, its settings, and why not."""

    asked: tuple[str, ...]
    settings: dict[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class UnreadableEntry:
    """A part of a sweep that was recorded and cannot be read now, such as the report of a run, and why not."""

    run_id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A sweep as the store holds it: the command that made it, its combinations, and how many are left to do.

    The combinations that do not exist stand apart: they are neither left nor failed. So do those that finished and
    whose report cannot be read: they are neither done nor failed.
    """

    name: str
    command: str
    entries: tuple[Entry, ...]
    left: int = 0
    unsupported: tuple[UnsupportedEntry, ...] = ()
    unreadable: tuple[UnreadableEntry, ...] = ()

    @property
    def reports(self) -> tuple[Report, ...]:
        """The reports of the combinations that are done."""
        return tuple(entry.report for entry in self.entries if entry.report)

    @property
    def failed(self) -> tuple[Entry, ...]:
        """The combinations that ended in an error."""
        return tuple(entry for entry in self.entries if entry.report is None)

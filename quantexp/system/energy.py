"""The energy counters of the CPU packages that Linux offers in /sys/class/powercap (RAPL, of Intel and AMD).

Each package has a folder `intel-rapl:N`, on AMD too. Its subzones `intel-rapl:N:M` (cores, graphics, memory) are parts
of it, and `psys` is the whole device: only the packages are added up. A counter is updated about every millisecond and
starts again from 0 after `max_energy_range_uj`. It counts everything that runs on the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP_FOLDER = Path("/sys/class/powercap")
LOAD = "sudo modprobe intel_rapl_msr"
PACKAGE = re.compile(r"intel-rapl:\d+")  # subzones have a second number, and intel-rapl-mmio counts a package again


def microjoules(file: Path) -> int:
    """Return the number in a file of a counter. Raises OSError or ValueError."""
    return int(file.read_text(encoding="ascii"))


class EnergyError(Exception):
    """A counter that could be read before can no longer be read. A measurement goes on without energy."""


@dataclass(frozen=True)
class Counter:
    """The energy counter of a package: its name, its file, and the highest value before it starts again from 0."""

    name: str
    file: Path
    range_uj: int


@dataclass(frozen=True)
class Meter:
    """The counters of all packages; without counters, `missing` says why, with the repair."""

    counters: tuple[Counter, ...]
    missing: str = ""
    read: Callable[[Path], int] = microjoules

    @property
    def names(self) -> str:
        """The packages: `package-0, package-1`."""
        return ", ".join(counter.name for counter in self.counters)

    def now(self) -> tuple[int, ...]:
        """Read all counters, in microjoules. Raises EnergyError."""
        try:
            return tuple(self.read(counter.file) for counter in self.counters)
        except (OSError, ValueError) as error:
            raise EnergyError(f"the energy counter can no longer be read ({error})") from error

    def joules(self, before: Sequence[int], after: Sequence[int]) -> float:
        """Return the energy between two readings; a counter may have started again from 0 once."""
        differences = (
            end - start if end >= start else end - start + counter.range_uj
            for counter, start, end in zip(self.counters, before, after, strict=True)
        )
        return sum(differences) / 1e6


def find(folder: Path | None = None) -> Meter:
    """Return the counters of this machine that can be read, or why energy cannot be measured."""
    folder = folder or POWERCAP_FOLDER
    counters = []
    for zone in sorted(folder.glob("intel-rapl:*")):
        name = _name(zone) if PACKAGE.fullmatch(zone.name) else ""
        if not name.startswith("package"):
            continue
        counter = zone / "energy_uj"
        try:
            microjoules(counter)
            counters.append(Counter(name, counter, microjoules(zone / "max_energy_range_uj")))
        except PermissionError:
            return Meter((), f"{counter} is not readable; allow it with sudo chmod a+r {folder}/intel-rapl:*/energy_uj")
        except (OSError, ValueError) as error:
            return Meter((), f"{counter} cannot be read ({error}); load its driver again with {LOAD}")
    if counters:
        return Meter(tuple(counters))
    where = "virtual machines and containers usually have none"
    return Meter((), f"{folder} has no energy counter of a CPU package ({where}); on Linux load its driver with {LOAD}")


def _name(zone: Path) -> str:
    """Return the name of a zone, empty if it has none: a container can hide the folder behind the link."""
    try:
        return (zone / "name").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

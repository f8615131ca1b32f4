"""The energy counters, in folders as the driver of Linux lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantexp.system import energy
from quantexp.system.energy import Counter, Meter, find, microjoules

RANGE_UJ = 262_143_328_850  # of many Intel packages: 2^32 units of 61 microjoules


def zone(folder: Path, name: str, label: str, value: int | str = 1_000_000) -> Path:
    """Make the folder of a zone, as the driver does; return the file of its counter."""
    made = folder / name
    made.mkdir(parents=True)
    (made / "name").write_text(f"{label}\n", encoding="utf-8")
    (made / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n", encoding="utf-8")
    (made / "energy_uj").write_text(f"{value}\n", encoding="utf-8")
    return made / "energy_uj"


def test_the_energy_is_the_sum_of_the_packages_without_their_parts_and_without_the_whole_device(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0")
    second = zone(tmp_path, "intel-rapl:1", "package-1")
    for name, label in (
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        zone(tmp_path, name, label)
    meter = find(tmp_path)
    assert (meter.names, meter.missing) == ("package-0, package-1", "")
    before = meter.now()
    first.write_text("3500000\n", encoding="utf-8")
    second.write_text("1500000\n", encoding="utf-8")
    assert meter.joules(before, meter.now()) == pytest.approx(2.5 + 0.5)


def test_the_dies_of_a_package_are_added_up(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0-die-0")
    zone(tmp_path, "intel-rapl:1", "package-0-die-1")
    assert find(tmp_path).names == "package-0-die-0, package-0-die-1"


def test_a_counter_that_starts_again_from_zero_goes_on_counting(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 2_000_000)
    meter = find(tmp_path)
    before = meter.now()
    file.write_text("3000000", encoding="utf-8")
    assert meter.joules(before, meter.now()) == pytest.approx(2 + 3)


def test_each_counter_starts_again_by_itself() -> None:
    counters = (Counter("package-0", Path("a"), 1_000_000), Counter("package-1", Path("b"), 4_000_000))
    meter = Meter(counters)
    assert meter.joules((900_000, 100_000), (200_000, 600_000)) == pytest.approx(0.3 + 0.5)


@pytest.mark.parametrize("present", [True, False], ids=["empty", "no folder"])
def test_a_machine_without_counters_says_so_with_the_repair(tmp_path: Path, present: bool) -> None:
    folder = tmp_path / "powercap"
    if present:
        folder.mkdir()
        zone(folder, "intel-rapl:0", "psys")
        (folder / "intel-rapl:1").symlink_to(folder / "hidden")  # as in a container
    meter = find(folder)
    assert meter.counters == ()
    assert meter.missing == (
        f"{folder} has no energy counter of a CPU package (virtual machines and containers usually have none); "
        "on Linux load its driver with sudo modprobe intel_rapl_msr"
    )


def test_a_counter_that_only_root_may_read_is_named_with_the_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(file: Path) -> int:
        if file.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(file))
        return microjoules(file)

    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setattr(energy, "microjoules", refused)  # root may read a file whatever its mode
    meter = find(tmp_path)
    assert meter.counters == ()
    assert meter.missing == (
        f"{counter} is not readable; allow it with sudo chmod a+r {tmp_path}/intel-rapl:*/energy_uj"
    )


def test_a_counter_without_a_number_is_no_counter(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", "")
    meter = find(tmp_path)
    assert meter.counters == ()
    assert meter.missing.startswith(f"{counter} cannot be read (")
    assert meter.missing.endswith("; load its driver again with sudo modprobe intel_rapl_msr")

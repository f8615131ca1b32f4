"""What is recorded of a machine, read from folders that the tests make and from the machine they run on."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import psutil
import pytest
import torch

from quantexp.system.environment import (
    caches,
    compiler,
    cpu_quota,
    describe,
    load_average,
    record,
    threads,
    turbo,
    usable_cores,
)


def written(folder: Path, files: dict[str, str]) -> Path:
    """Return `folder` with the files in it, as the system's own folders have them."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
    return folder


def cache_files(index: int, level: int, kind: str, size: str) -> dict[str, str]:
    folder = f"cpu0/cache/index{index}"
    return {f"{folder}/level": str(level), f"{folder}/type": kind, f"{folder}/size": size}


def test_caches_are_named_by_level_and_kind_and_measured_in_bytes(tmp_path: Path) -> None:
    files = {
        **cache_files(0, 1, "Data", "48K"),
        **cache_files(1, 1, "Instruction", "32K"),
        **cache_files(2, 2, "Unified", "2048K"),
        **cache_files(3, 3, "Unified", "105M"),
    }
    expected = {"L1d": 48 * 1024, "L1i": 32 * 1024, "L2": 2 * 1024**2, "L3": 105 * 1024**2}
    assert caches(written(tmp_path, files)) == expected


def test_a_cache_that_is_told_in_part_is_left_out(tmp_path: Path) -> None:
    files = {
        **cache_files(0, 1, "Data", "large"),
        **cache_files(1, 2, "Unified", "512K"),
        "cpu0/cache/index2/level": "3",
    }
    assert caches(written(tmp_path, files)) == {"L2": 512 * 1024}


def test_a_system_without_such_folders_tells_nothing_and_raises_nothing(tmp_path: Path) -> None:
    assert (caches(tmp_path), turbo(tmp_path), cpu_quota(tmp_path)) == ({}, None, None)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("intel_pstate/no_turbo", "0", True),
        ("intel_pstate/no_turbo", "1", False),
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
    ],
)
def test_turbo_is_read_from_the_switch_of_either_driver(tmp_path: Path, file: str, text: str, expected: bool) -> None:
    assert turbo(written(tmp_path, {file: text})) is expected


@pytest.mark.parametrize(
    ("text", "expected"), [("150000 100000", 1.5), ("max 100000", None), ("", None)], ids=["limited", "max", "empty"]
)
def test_a_quota_is_counted_in_cores(tmp_path: Path, text: str, expected: float | None) -> None:
    assert cpu_quota(written(tmp_path, {"cpu.max": text})) == expected


def test_the_compiler_is_the_one_that_cxx_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = written(tmp_path, {"mine++": "#!/bin/sh"}) / "mine++"
    mine.chmod(0o755)
    monkeypatch.setenv("CXX", str(mine))
    assert compiler() == str(mine)


def test_no_other_compiler_stands_in_for_one_that_cxx_names_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiler() is None


def test_the_description_holds_what_torch_and_the_system_say_of_themselves() -> None:
    found = describe()
    assert found.packages["torch"] == torch.__version__
    assert found.torch_build["kernels"] == torch.backends.cpu.get_cpu_capability()
    assert found.cores == found.training_threads == usable_cores()
    assert found.interop_threads == torch.get_num_interop_threads()
    assert found.memory_gb == round(psutil.virtual_memory().total / 1e9, 1)
    assert found.cpu


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux lists its CPU's flags in a file")
def test_a_virtual_machine_is_told_by_the_flag_of_its_cpu() -> None:
    flagged = "hypervisor" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    assert (describe().virtual is not None) == flagged


def test_a_record_is_json_and_adds_the_load_and_the_threads_of_the_moment() -> None:
    with threads(1):
        one = record()
    with threads(2):
        two = record()
    assert (one["threads"], two["threads"]) == (1, 2)
    assert set(one) == {*describe().to_dict(), "load_average", "threads"}
    assert json.loads(json.dumps(one))["cpu"] == describe().cpu


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="this system has no load average")
def test_the_load_average_has_three_figures() -> None:
    load = load_average()
    assert load is not None and len(load) == 3 and min(load) >= 0

"""The machine, the versions and the threads that a figure was taken with."""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from quantexp import __version__
from quantexp.errors import BenchmarkError

PACKAGES = ("torch", "torchvision", "torchao", "mlflow", "hydra-core", "numpy", "scipy")
INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a run took place."""

    host: str
    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory_gb: float
    system: str
    python: str
    packages: dict[str, str]
    engines: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line for the foot of a table."""
        sets = ", ".join(name for name in self.instruction_sets if name not in ("avx2", "fma"))
        return (
            f"{self.cpu}, {self.cores} cores{f' ({sets})' if sets else ''}, "
            f"torch {self.packages['torch']}, Python {self.python}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for JSON."""
        return asdict(self)


@functools.cache
def describe() -> Environment:
    """Describe this machine and what is installed on it."""
    model, flags = _cpu()
    return Environment(
        host=platform.node(),
        cpu=model,
        cores=usable_cores(),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        system=platform.platform(),
        python=sys.version.split()[0],
        packages={"quantexp": __version__, **{name: version(name) for name in PACKAGES}},
        engines=tuple(name for name in torch.backends.quantized.supported_engines if name != "none"),
    )


def machine() -> str:
    """Name what makes training times comparable: host and CPU."""
    return f"{platform.node()} {_cpu()[0]}"


def usable_cores() -> int:
    """Count the cores that this process may use; hyperthreads of one core count once."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    return min(logical, physical)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads, and make sure that it does.

    Raises:
        BenchmarkError: If torch uses another number after it was told.
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        if (taken := torch.get_num_threads()) != count:
            raise BenchmarkError(f"torch must compute with {count} threads, it uses {taken}; ask for another number")
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _cpu() -> tuple[str, frozenset[str]]:
    """Return the CPU's name and its feature flags; the flags are empty where Linux does not list them."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(fields.get("flags", "").split())

"""The machine, the versions and the threads of a measurement."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from quantexp.system import openmp
from quantexp.system.errors import BenchmarkError
from quantexp.system.version import __version__

PACKAGES = ("torch", "torchvision", "torchao", "mlflow", "hydra-core", "numpy", "scipy")
INSTRUCTION_SETS = (
    *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "amx_bf16", "amx_fp16"),
)
CPU_FOLDER = Path("/sys/devices/system/cpu")
DMI_FOLDER = Path("/sys/class/dmi/id")
CGROUP_FOLDER = Path("/sys/fs/cgroup")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
FOR_PRECISION = {  # instruction sets that multiply in it; one of them is enough
    "int8": ("avx_vnni", "avx512_vnni", "amx_int8"),
    "bf16": ("avx512_bf16", "amx_bf16"),
    "fp16": ("avx512_fp16", "amx_fp16"),
}


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine of a run. What the system does not tell is None, or left out of a dict.

    `caches` gives the bytes of one cache of each level ("L1d", "L2", "L3"), which several cores may share.
    `cpu_quota` is how many cores' worth of time the control group may use. `virtual` names the virtual
    machine, `compiler` is the C++ compiler of torch.compile, `openmp` has the variables that define how threads wait.
    """

    host: str
    cpu: str
    cores: int
    cpu_quota: float | None
    instruction_sets: tuple[str, ...]
    caches: dict[str, int]
    governor: str | None
    turbo: bool | None
    virtual: str | None
    memory_gb: float
    system: str
    python: str
    packages: dict[str, str]
    torch_build: dict[str, str]
    engines: tuple[str, ...]
    training_threads: int  # unless train.threads says otherwise
    interop_threads: int
    openmp: dict[str, str]
    compiler: str | None

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
        cpu_quota=cpu_quota(),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        caches=caches(),
        governor=_text(CPU_FOLDER / "cpu0/cpufreq/scaling_governor"),
        turbo=turbo(),
        virtual=_virtual(flags),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        system=platform.platform(),
        python=sys.version.split()[0],
        packages={"quantexp": __version__, **{name: version(name) for name in PACKAGES}, "torch": torch.__version__},
        torch_build=_torch_build(),
        engines=tuple(name for name in torch.backends.quantized.supported_engines if name != "none"),
        training_threads=usable_cores(),
        interop_threads=torch.get_num_interop_threads(),
        openmp=openmp.waiting(),
        compiler=compiler(),
    )


def record() -> dict[str, Any]:
    """Return what is recorded with a run: the machine, its load, and torch's threads."""
    return describe().to_dict() | {"load_average": load_average(), "threads": torch.get_num_threads()}


def load_average() -> tuple[float, ...] | None:
    """Return the mean number of runnable processes over the last 1, 5 and 15 minutes; None if unknown."""
    try:
        return tuple(round(value, 2) for value in psutil.getloadavg())
    except OSError:
        return None


def machine() -> str:
    """Return host and CPU, which make training times comparable."""
    return f"{platform.node()} {_cpu()[0]}"


def usable_cores() -> int:
    """Count the cores that this process may use; hyperthreads of one core count once."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    return max(1, min(logical, physical, thread_limit() or logical))


def thread_limit() -> int | None:
    """Return the limit of OpenMP threads, which torch does not know of; None without a limit."""
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    return int(limit) if limit.isdigit() else None


def caches(folder: Path = CPU_FOLDER) -> dict[str, int]:
    """Return the bytes of each cache that the first CPU uses, by name; none where the system does not list them."""
    found = {}
    for index in sorted((folder / "cpu0/cache").glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        match = re.fullmatch(r"(\d+)([KMG]?)", size or "")
        if level and kind and match:
            suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{suffix}"] = int(match[1]) * UNITS.get(match[2], 1)
    return found


def turbo(folder: Path = CPU_FOLDER) -> bool | None:
    """Return whether the CPU may clock above its nominal rate; None if unknown."""
    if (off := _text(folder / "intel_pstate/no_turbo")) is not None:
        return off == "0"
    boost = _text(folder / "cpufreq/boost")
    return None if boost is None else boost == "1"


def cpu_quota(folder: Path = CGROUP_FOLDER) -> float | None:
    """Return how many cores' worth of time the control group may use; None without a limit."""
    match = re.fullmatch(r"(\d+) (\d+)", _text(folder / "cpu.max") or "")
    return int(match[1]) / int(match[2]) if match else None


def compiler() -> str | None:
    """Return the C++ compiler of torch.compile: $CXX if it is set, else the system's; None if there is none."""
    usual = "clang++" if sys.platform == "darwin" else "cl" if sys.platform == "win32" else "g++"
    return shutil.which(os.environ.get("CXX", usual))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads, and check that it does.

    Raises:
        BenchmarkError: If torch uses another number.
    """
    before = torch.get_num_threads()
    try:
        if (limit := thread_limit()) is not None and limit < count:
            raise BenchmarkError(
                f"torch must compute with {count} threads, OMP_THREAD_LIMIT={limit} allows fewer; unset it"
            )
        torch.set_num_threads(count)
        if (taken := torch.get_num_threads()) != count:
            raise BenchmarkError(f"torch must compute with {count} threads, it uses {taken}; choose another number")
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _cpu() -> tuple[str, frozenset[str]]:
    """Return the CPU's name and its feature flags; without Linux there are no flags."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(fields.get("flags", "").split())


def _virtual(flags: frozenset[str]) -> str | None:
    """Return the vendor of the virtual machine if the CPU reports one; on bare metal clouds have a vendor too."""
    if "hypervisor" not in flags:
        return None
    return _text(DMI_FOLDER / "sys_vendor") or _text(Path("/sys/hypervisor/type")) or "hypervisor"


def _torch_build() -> dict[str, str]:
    """Return what torch's kernels depend on: its libraries, and the instruction sets that it uses here."""
    shown = torch.__config__.show()
    patterns = {
        "oneDNN": r"MKL-DNN v([\d.]+)",
        "MKL": r"Math Kernel Library Version ([\d.]+)",
        "OpenMP": r"a\.k\.a\. OpenMP ([\d.]+)",
    }
    found = {name: match[1] for name, pattern in patterns.items() if (match := re.search(pattern, shown))}
    if torch.version.cuda:
        found["CUDA"] = torch.version.cuda
    if torch.version.hip:
        found["ROCm"] = torch.version.hip
    return found | {"kernels": torch.backends.cpu.get_cpu_capability(), "git": str(torch.version.git_version)[:12]}


def _text(path: Path) -> str | None:
    """Return the content of a system file, None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None

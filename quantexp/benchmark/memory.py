"""The memory that a new process needs to load a stored network, or the file of a runtime, and predict with it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.system.errors import BenchmarkError

if TYPE_CHECKING:
    from torch import nn

    from quantexp.config import Runtime
    from quantexp.tasks.inputs import Batch

LOAD = """
import sys
from quantexp.benchmark.memory import load_and_predict
load_and_predict(*sys.argv[1:])
"""
# Of the process itself since it started: the peak of getrusage also includes the memory of its parent before exec.
PEAK = """
import pathlib, resource, sys
status = pathlib.Path("/proc/self/status")
lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
print(*peaks or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)])
"""


def memory_bytes(folder: Path, batch_size: int, threads: int) -> int:
    """Return the peak resident bytes of a new process that loads and predicts, minus those of importing torch.

    Raises:
        BenchmarkError: If the process fails.
    """
    python = [sys.executable, "-c"]
    loaded = _peak_of([*python, LOAD + PEAK, str(folder), str(batch_size), str(threads)])
    return max(0, loaded - _peak_of([*python, "import torch" + PEAK]))


def file_memory_bytes(runtime: Runtime, network: nn.Module, exported: bytes, batch: Batch) -> int:
    """Return the peak resident bytes of a new process that runs the file of a runtime, minus those of its imports.

    The process runs the lines that an export shows: it imports the packages of the runtime and numpy, loads the file,
    and predicts `batch`, with the threads that the runtime takes by itself.

    Args:
        runtime: One that executes a file.
        network: What was exported.
        exported: The file.
        batch: One batch of inputs.

    Raises:
        BenchmarkError: If the process fails.
    """
    from quantexp.formats.openvino import WITHOUT_TELEMETRY  # torch comes with these: not in a process that is measured
    from quantexp.storage.export import FORMATS, write_example

    form = next(form for form in FORMATS.values() if form.extra == runtime.name)
    imports = form.lines.partition("\n\n")[0]
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        folder = Path(scratch)
        form.write(network, exported, batch, folder)
        write_example(network, batch, folder)
        python = [sys.executable, "-I", "-W", "ignore", "-c"]  # without quantexp, as in the program that ships the file
        loaded, imported = (
            _peak_of([*python, WITHOUT_TELEMETRY + lines + PEAK], folder) for lines in (form.lines, imports)
        )
        return max(0, loaded - imported)


def _peak_of(command: Sequence[str], folder: Path | None = None) -> int:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise BenchmarkError(
            "benchmark.memory=true needs a process that loads the network, but it failed: "
            f"{done.stderr.strip()[-300:]}; use benchmark.memory=false"
        )
    return int(done.stdout.split()[-1])


def load_and_predict(folder: str, batch_size: str, threads: str) -> None:
    """Load a stored network and predict one batch, in the process that is measured."""
    import torch

    from quantexp.storage.stored import inputs_of, load
    from quantexp.tasks.inputs import examples

    torch.set_num_threads(int(threads))
    model = load(Path(folder), trust=True)
    with torch.inference_mode():
        model(*examples(inputs_of(Path(folder)), int(batch_size)))

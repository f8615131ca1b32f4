"""The memory that a process needs to load a stored network and predict with it.

    python -m quantexp.benchmark.memory [FOLDER BATCH_SIZE THREADS]

prints the peak resident bytes of this process after that; without arguments, after only importing torch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from quantexp.system.errors import BenchmarkError


def memory_bytes(folder: Path, batch_size: int, threads: int) -> int:
    """Return the peak resident bytes of a new process that loads and predicts, minus those of importing torch.

    Raises:
        BenchmarkError: If the process fails.
    """
    return max(0, _peak_of(str(folder), str(batch_size), str(threads)) - _peak_of())


def _peak_of(*arguments: str) -> int:
    command = [sys.executable, "-m", "quantexp.benchmark.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(
            "benchmark.memory=true needs a process that loads the network, but it failed: "
            f"{done.stderr.strip()[-300:]}; use benchmark.memory=false"
        )
    return int(done.stdout)


def _peak() -> int:
    """Return the peak resident bytes of this process since Python started."""
    status = Path("/proc/self/status")
    if status.is_file():  # the peak of getrusage also includes the memory of the parent before exec
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _load_and_predict(folder: Path, batch_size: int, threads: int) -> None:
    import torch

    from quantexp.storage.stored import inputs_of, load
    from quantexp.tasks.inputs import examples

    torch.set_num_threads(threads)
    model = load(folder, trust=True)
    with torch.inference_mode():
        model(*examples(inputs_of(folder), batch_size))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _load_and_predict(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        import torch  # noqa: F401
    print(_peak())

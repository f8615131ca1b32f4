"""The memory that a process needs to load a stored model and to predict with it.

    python -m quantexp.benchmark.memory [FOLDER BATCH_SIZE THREADS]

prints the peak resident bytes of this process after that; with no arguments, after it only imported torch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from quantexp.system.errors import BenchmarkError


def memory_bytes(folder: Path, batch_size: int, threads: int) -> int:
    """Return the peak resident bytes of a fresh process that loads and predicts, above one that only imports torch.

    Raises:
        BenchmarkError: If such a process cannot be measured.
    """
    return max(0, _peak_of(str(folder), str(batch_size), str(threads)) - _peak_of())


def _peak_of(*arguments: str) -> int:
    command = [sys.executable, "-m", "quantexp.benchmark.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(
            f"benchmark.memory=true needs a process that loads the model, it failed: {done.stderr.strip()[-300:]}; "
            "leave benchmark.memory out"
        )
    return int(done.stdout)


def _peak() -> int:
    """Return the peak resident bytes of this process since it began to run Python."""
    status = Path("/proc/self/status")
    if status.is_file():  # the peak that getrusage knows begins before exec, in the parent's memory
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

"""Timing in a child process, in which the threads of OpenMP wait for each other as torch has it.

    python -m quantexp.benchmark.child FOLDER

quantexp shortens that wait in its own processes (`system/openmp.py`). It changes no latency on one thread, but it
can on several, and a process cannot change it back. So there the child times the networks.

The parent writes `request.json`, the stored networks and the inputs; the child prints the timings as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from quantexp.benchmark.latency import BATCHES, MAX_INPUT_BYTES, Timing, time_models
from quantexp.config import RUNTIMES, Benchmark, Engine, Lab, Paired, Runtime
from quantexp.runtimes import prepare
from quantexp.storage.stored import load
from quantexp.system.environment import threads
from quantexp.system.errors import BenchmarkError, QuantexpError
from quantexp.system.openmp import VARIABLE, shortened
from quantexp.tasks.data import Split, Tensors

REQUEST, INPUTS = "request.json", "inputs.safetensors"
PROTOCOLS: tuple[type[Benchmark], ...] = (Paired, Lab)
TIMINGS = TypeAdapter(list[Timing])
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A network in a folder, the runtime that executes it, and the engine that its int8 weights are packed for."""

    folder: Path
    runtime: Runtime
    engine: Engine | None


def needed(benchmark: Benchmark) -> bool:
    """Return whether the way in which the threads of this process wait could change the latencies."""
    return benchmark.threads > 1 and shortened()


def time_stored(
    networks: Sequence[Stored], examples: Split, batch_sizes: Sequence[int], benchmark: Benchmark
) -> list[Timing]:
    """Time the networks at each batch size in a child process; the first one is the reference.

    Raises:
        BenchmarkError: If the child fails.
    """
    from safetensors.torch import save_file

    request = {
        "networks": [
            {"folder": str(stored.folder), "runtime": _plain(stored.runtime), "engine": stored.engine}
            for stored in networks
        ],
        "batch_sizes": list(batch_sizes),
        "benchmark": _plain(benchmark),
    }
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        (Path(scratch) / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        batch = examples.first(min(len(examples), _examples(examples, max(batch_sizes))))
        save_file({str(index): value.contiguous() for index, value in enumerate(batch)}, Path(scratch) / INPUTS)
        command = [sys.executable, "-m", "quantexp.benchmark.child", scratch]
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][-300:]
        raise BenchmarkError(
            f"benchmark.threads={benchmark.threads} is measured in a child process, but it failed: {reason}; "
            "use benchmark.threads=1"
        )
    return TIMINGS.validate_json(done.stdout)


def _examples(examples: Split, largest: int) -> int:
    """Return how many examples the batches of the largest size rotate over."""
    bytes_each = sum(value.nbytes for value in examples.first(1))
    return max(largest, min(BATCHES * largest, MAX_INPUT_BYTES // bytes_each))


def _plain(option: Runtime | Benchmark) -> dict[str, Any]:
    return {"name": option.name, **asdict(option)}


def _answer(folder: Path) -> str:
    """Time the networks that the request in `folder` names; return the timings as JSON."""
    from safetensors.torch import load_file

    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    protocol: Benchmark = _option(PROTOCOLS, request["benchmark"])
    stored = [
        Stored(Path(network["folder"]), _option(RUNTIMES, network["runtime"]), network["engine"])
        for network in request["networks"]
    ]
    networks = [load(each.folder, trust=True).network for each in stored]  # the parent has stored and run them
    inputs = load_file(folder / INPUTS)
    examples = Tensors(None, tuple(inputs[str(index)].clone() for index in range(len(inputs))))
    timings = []
    with threads(protocol.threads):
        for size in request["batch_sizes"]:
            batch = examples.first(size)
            prepared = [
                prepare(each.runtime, network, batch, Engine(each.engine) if each.engine else None)
                for each, network in zip(stored, networks, strict=True)
            ]
            timings.append(time_models(prepared, examples, size, protocol))
    return TIMINGS.dump_json(timings).decode()


def _option(known: Sequence[type[Any]], described: dict[str, Any]) -> Any:
    values = dict(described)
    name = values.pop("name")
    return next(cls for cls in known if cls.name == name)(**values)


if __name__ == "__main__":
    try:
        print(_answer(Path(sys.argv[1])))
    except QuantexpError as error:
        sys.exit(str(error))

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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from quantexp.benchmark.latency import BATCHES, MAX_INPUT_BYTES, Timing, time_models
from quantexp.config import RUNTIMES, Benchmark, Engine, Lab, Paired, Runtime
from quantexp.runtimes import prepare
from quantexp.runtimes.prepared import Prepared
from quantexp.storage.stored import load
from quantexp.system.environment import threads
from quantexp.system.errors import BenchmarkError, QuantexpError
from quantexp.system.openmp import VARIABLE, shortened
from quantexp.tasks.data import Split, Tensors
from quantexp.tasks.inputs import Batch

REQUEST, INPUTS, EXPORTED = "request.json", "inputs.safetensors", "exported-"
PROTOCOLS: tuple[type[Benchmark], ...] = (Paired, Lab)
TIMINGS = TypeAdapter(list[Timing])
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A network in a folder, the runtime that executes it, and the engine that its int8 weights are packed for.

    `exported` has the file that the runtime executes for each batch size, None if it executes the network as it is.
    """

    folder: Path
    runtime: Runtime
    engine: Engine | None
    exported: Sequence[bytes | None] = ()


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
        for index, stored in enumerate(networks):
            for at, exported in enumerate(stored.exported):
                if exported and (at == 0 or exported is not stored.exported[at - 1]):  # else the file before serves it
                    (Path(scratch) / f"{EXPORTED}{index}-{at}").write_bytes(exported)
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
        Stored(
            Path(network["folder"]),
            _option(RUNTIMES, network["runtime"]),
            network["engine"],
            list(_files(folder, index, len(request["batch_sizes"]))),
        )
        for index, network in enumerate(request["networks"])
    ]
    networks = [load(each.folder, trust=True).network for each in stored]  # the parent has stored and run them
    inputs = load_file(folder / INPUTS)
    examples = Tensors(None, tuple(inputs[str(index)].clone() for index in range(len(inputs))))
    with threads(protocol.threads):
        prepared: dict[int, list[Prepared]] = {}
        for index in sorted(range(len(stored)), key=lambda at: not stored[at].runtime.exports):  # before any compiling
            batches = [examples.first(size) for size in request["batch_sizes"]]
            prepared[index] = _prepared(stored[index], networks[index], batches)
        timings = [
            time_models([prepared[index][at] for index in range(len(stored))], examples, size, protocol)
            for at, size in enumerate(request["batch_sizes"])
        ]
    return TIMINGS.dump_json(timings).decode()


def _prepared(stored: Stored, network: Any, batches: Sequence[Batch]) -> list[Prepared]:
    """Return the network executable for each batch, the same one where it accepts batches of any size."""
    engine, made = Engine(stored.engine) if stored.engine else None, list[Prepared]()
    for batch, exported in zip(batches, stored.exported, strict=True):
        reused = made[-1] if made and made[-1].batch_size is None and made[-1].exported else None
        made.append(reused or prepare(stored.runtime, network, batch, engine, exported))
    return made


def _files(folder: Path, index: int, count: int) -> Iterator[bytes | None]:
    """Yield the file that a network is exported to for each batch size: that of the size before if it has none."""
    read: bytes | None = None
    for at in range(count):
        file = folder / f"{EXPORTED}{index}-{at}"
        read = file.read_bytes() if file.is_file() else read
        yield read


def _option(known: Sequence[type[Any]], described: dict[str, Any]) -> Any:
    values = dict(described)
    name = values.pop("name")
    return next(cls for cls in known if cls.name == name)(**values)


if __name__ == "__main__":
    try:
        print(_answer(Path(sys.argv[1])))
    except QuantexpError as error:
        sys.exit(str(error))

"""ExecuTorch: the network is exported to a .pte file for one batch size, and executed with the kernels of XNNPACK.

It takes and returns tensors; inputs share their memory with those of torch.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Engine, Executorch
from quantexp.formats import executorch
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.inspection.watch import NAMES, Watch
from quantexp.results import Operator, Profile
from quantexp.runtimes import executorch_evidence as evidence
from quantexp.runtimes.agreement import largest_difference
from quantexp.runtimes.executorch_threads import Loaded, check_alone, library
from quantexp.runtimes.prepared import Prepared
from quantexp.system import extras
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

REPAIR = "use runtime=eager, and leave executorch out of benchmark.runtimes"
BACKEND = "XnnpackBackend"
PROFILED_CALLS = 5


@dataclass(frozen=True, kw_only=True)
class ExecutorchNetwork(Prepared):
    """A network that ExecuTorch executes, for batches of one size.

    Attributes:
        exported: The .pte file.
        loaded: Executes it, with `threads` threads.
        batch_size: The batch size.
        seconds: The time to export the network and to load the file.
        max_difference: The largest difference of its outputs from those of eager execution.
        counted: The multiplying operators that ran on the batch that it was checked with.
        in_float: Why layers with int8 weights ran in float, by name.
    """

    exported: bytes
    own_threads: bool = True
    loaded: Loaded
    threads: int
    batch_size: int
    seconds: float
    max_difference: float
    counted: tuple[Operator, ...]
    in_float: Mapping[str, str] = field(default_factory=dict)

    def network(self, *batch: Tensor) -> Tensor:
        """Return the logits of a batch of tensors."""
        (logits,) = self.loaded(*self.given(batch))
        return logits

    @property
    def call(self) -> Callable[..., Any]:
        """The loaded program, called with what `given` returns."""
        return self.loaded

    def given(self, batch: Batch) -> tuple[tuple[Tensor, ...]]:
        """Return the batch as contiguous tensors."""
        return (_contiguous(batch),)

    def copied(self) -> Callable[..., Any]:
        """Return the program loaded once more, whose weights are packed at other addresses."""
        return Loaded(self.exported, self.threads)

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that ran when the network was checked."""
        return self.counted

    def profile(self, batch: Batch) -> Profile:
        """Return the shares of the time of a forward pass on `batch`, from the events that ExecuTorch traced."""
        calls = _traced(self.exported, self.threads, _contiguous(batch), PROFILED_CALLS)
        return evidence.profile(calls, executorch.steps(self.exported), size(batch))


def require(runtime: Executorch) -> None:
    """Check that the package is installed, with XNNPACK.

    Raises:
        ConfigError: If it is not installed.
        BenchmarkError: If it was built without XNNPACK.
    """
    extras.require_extra("executorch", f"runtime={runtime.name}", "executorch")
    if not library()._is_available(BACKEND):
        raise BenchmarkError(f"runtime={runtime.name} needs XNNPACK, this build of executorch has none; {REPAIR}")


def prepare(
    runtime: Executorch, network: nn.Module, batch: Batch, engine: Engine | None, exported: bytes | None = None
) -> ExecutorchNetwork:
    """Export `network`, unless it is `exported` already for this batch size, and check its outputs on `batch`.

    The caller sets the threads first.

    Raises:
        BenchmarkError: If it cannot be exported, ExecuTorch cannot execute it, or the outputs differ.
        ConfigError: If the package is missing.
    """
    require(runtime)
    started, count, batch = time.perf_counter(), torch.get_num_threads(), _contiguous(batch)
    fitting = exported is not None and _fits(exported, count, batch)
    pte = exported if exported and fitting else executorch.exported(network, batch, f"runtime={runtime.name}", REPAIR)
    try:
        loaded = Loaded(pte, count)
        (found,) = loaded(batch)
        seconds = time.perf_counter() - started
        calls, steps = _traced(pte, count, batch, 1), executorch.steps(pte)
    except (BenchmarkError, MemoryError):
        raise
    except Exception as error:  # its errors are RuntimeErrors with a number
        raise BenchmarkError(
            f"runtime={runtime.name} cannot execute this network ({executorch.reason(error)}); {REPAIR}"
        ) from error
    if count == 1:
        check_alone(loaded, batch)
    if not fitting:
        log.info("export    to .pte for batches of %d, %.2f MB: %.1f s", size(batch), len(pte) / 1e6, seconds)
    watch = Watch()
    with torch.no_grad():
        with watch:
            network(*batch)
        expected = network(*batch)
    ran = evidence.ran(calls[0], steps)
    layers = list(held_weights(network))
    precisions = {*(NAMES.get(layer.dtype, "") for layer in layers), *(product.precision for product in ran)}
    return ExecutorchNetwork(
        exported=pte,
        loaded=loaded,
        threads=count,
        batch_size=size(batch),
        seconds=seconds,
        max_difference=largest_difference("ExecuTorch", lambda: network(*batch), expected, found, precisions, REPAIR),
        counted=evidence.operators(ran, size(batch), sum(watch.macs.values())),
        in_float=evidence.in_float(layers, ran),
    )


def _contiguous(batch: Batch) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in batch)


def _fits(pte: bytes, count: int, batch: Batch) -> bool:
    """Return whether a file was exported for batches like this one."""
    method = Loaded(pte, count).program.method_meta(executorch.METHOD)
    sizes = [tuple(method.input_tensor_meta(index).sizes()) for index in range(method.num_inputs())]
    return sizes == [tuple(tensor.shape) for tensor in batch]


def _traced(pte: bytes, count: int, batch: Sequence[Tensor], calls: int) -> list[list[evidence.Event]]:
    """Return the events of some calls."""
    with extras.quietly():
        from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

    traced = Loaded(pte, count, traced=True)
    for _ in range(calls):
        traced(batch)
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        path = Path(scratch) / "events.etdp"
        traced.program.write_etdump_result_to_file(str(path))
        with extras.quietly():
            return evidence.events(deserialize_from_etdump_flatcc(path.read_bytes()).run_data)

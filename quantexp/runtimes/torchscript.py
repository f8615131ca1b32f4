"""TorchScript: the network is traced and frozen, and its graph runs without Python, in the process that traced it.

The kernels are those of eager execution; what is saved is the time between them. torch.jit is deprecated.
"""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Engine, TorchScript
from quantexp.quant.engine import use_engine
from quantexp.quant.inspection.watch import Watch
from quantexp.results import Operator
from quantexp.runtimes.agreement import largest_difference
from quantexp.runtimes.generated import attributed
from quantexp.runtimes.pool import MOST_BESIDE, beside
from quantexp.runtimes.prepared import Prepared
from quantexp.state.copies import copied
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

REPAIR = "use runtime=eager, and leave torchscript out of benchmark.runtimes"
GENERATED = "torchscript.generated"  # products that no operator of torch shows
DEPRECATED = ("trace", "trace_method", "freeze", "script", "script_method")  # in torch.jit
WARMING_CALLS = 3  # torch records the first call, then optimizes the graph
LONGEST_REASON = 300  # characters


@dataclass(frozen=True, kw_only=True)
class ScriptedNetwork(Prepared):
    """A network that TorchScript executes.

    Attributes:
        network: The frozen script.
        source: The network that it was traced from.
        batch: What it was traced with.
        engine: The engine that its int8 weights are packed for.
        batch_size: The only batch size for which its outputs are right; None for any.
        seconds: The time to trace and freeze the network.
        max_difference: The largest difference of its outputs from those of eager execution.
        ran: The multiplying operators that ran.
    """

    network: Callable[..., Any]
    source: nn.Module
    batch: Batch
    engine: Engine | None
    batch_size: int | None
    seconds: float
    max_difference: float
    ran: tuple[Operator, ...]

    def copied(self) -> Callable[..., Any]:
        """Trace a copy of the network: a copy of a script shares the constants, which the weights are."""
        return _script(self.source, self.batch, self.engine)

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that ran when the script was checked."""
        return self.ran


def require(runtime: TorchScript) -> None:
    """Do nothing: every machine supports TorchScript."""


def prepare(runtime: TorchScript, network: nn.Module, batch: Batch, engine: Engine | None) -> ScriptedNetwork:
    """Trace and freeze a copy of `network`, and check that the outputs are the same as in eager execution.

    The caller sets the threads first; they are those of torch.

    Raises:
        BenchmarkError: If it cannot be traced, its outputs differ, or others of its threads are at work.
    """
    with torch.inference_mode():
        batch = tuple(tensor.clone() for tensor in batch)  # made in inference mode, like the batches that are timed
    started = time.perf_counter()
    try:
        script = _script(network, batch, engine)
    except MemoryError:
        raise
    except Exception as error:  # the code of the network and the tracer can raise anything
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        reason = f"{type(error).__name__}: {first}"[:LONGEST_REASON]
        raise BenchmarkError(
            f"runtime={runtime.name} needs a network that torch.jit can trace and freeze, but it failed ({reason}); "
            f"{REPAIR}"
        ) from error
    seconds = time.perf_counter() - started
    seen, eager = Watch(), Watch()
    with torch.inference_mode():
        with seen:
            script(*batch)
        with eager:
            network(*batch)
        ran = attributed((seen,), eager, size(batch), GENERATED)
        precisions = [operator.precision for operator in ran]
        difference = largest_difference(
            "a traced network", lambda: network(*batch), network(*batch), script(*batch), precisions, REPAIR
        )
        _check_other_values(script, network, batch, precisions)
        fixed = None if _accepts_other_sizes(script, network, batch, precisions) else size(batch)
        if torch.get_num_threads() == 1 and (share := beside(lambda: script(*batch))) > MOST_BESIDE:
            raise BenchmarkError(
                f"runtime={runtime.name} must compute with 1 thread, others took {share:.0%} of its CPU time; {REPAIR}"
            )
    log.info("trace     %s: %.1f s", f"for batches of {fixed}" if fixed else "for batches of any size", seconds)
    return ScriptedNetwork(
        network=script,
        source=network,
        batch=batch,
        engine=engine,
        batch_size=fixed,
        seconds=seconds,
        max_difference=difference,
        ran=ran,
    )


def _script(network: nn.Module, batch: Batch, engine: Engine | None) -> Callable[..., Any]:
    """Return a frozen trace of a copy of the network, after the calls in which torch optimizes it."""
    with use_engine(engine), torch.no_grad(), warnings.catch_warnings():
        for name in DEPRECATED:
            warnings.filterwarnings("ignore", rf"`torch\.jit\.{name}` is deprecated", FutureWarning)
        # Values that the trace keeps as constants: whether outputs are right for other batches is checked later.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        example = tuple(tensor.clone() for tensor in batch)
        traced = torch.jit.trace(copied(network).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        script: Callable[..., Any] = torch.jit.freeze(traced)
    with torch.inference_mode():
        for _ in range(WARMING_CALLS):
            script(*batch)
    return script


def _check_other_values(script: Callable[..., Any], network: nn.Module, batch: Batch, precisions: list[str]) -> None:
    """Check the outputs for other values, as a trace has one branch of the code. Raises BenchmarkError."""
    other = tuple(-tensor if tensor.is_floating_point() else tensor.flip(0) for tensor in batch)
    expected = _outputs(network, other)
    if expected is not None and bool(expected.isfinite().all()):
        found = script(*other)
        largest_difference(
            "a traced network on other values", lambda: network(*other), expected, found, precisions, REPAIR
        )


def _accepts_other_sizes(script: Callable[..., Any], network: nn.Module, batch: Batch, precisions: list[str]) -> bool:
    """Return whether the outputs are right for other batch sizes too."""
    for count in (1, 2 * size(batch) + 1):
        rows = torch.arange(count).flip(0) % size(batch)
        other = tuple(tensor[rows] for tensor in batch)
        if (expected := _outputs(network, other)) is None:
            continue  # a network may need several examples
        found = _outputs(script, other)
        if found is None or found.shape != expected.shape:
            return False
        try:
            again = functools.partial(network, *other)
            largest_difference("a traced network", again, expected, found, precisions, REPAIR)
        except BenchmarkError:
            return False
    return True


def _outputs(network: Callable[..., Any], batch: Batch) -> Tensor | None:
    """Return the outputs, None if the network does not run on the batch."""
    try:
        outputs: Tensor = network(*batch)
    except MemoryError:
        raise
    except Exception:  # the code of the network can raise anything
        return None
    return outputs

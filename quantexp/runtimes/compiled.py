"""torch.compile: the network is compiled for one batch size with frozen weights, and compared with eager execution."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from quantexp.config import Compiled, Engine
from quantexp.quant.inspection.watch import Watch
from quantexp.results import Operator
from quantexp.runtimes.agreement import largest_difference
from quantexp.runtimes.generated import attributed
from quantexp.runtimes.inductor import reason, require_compiler
from quantexp.runtimes.lowering import GENERATED
from quantexp.runtimes.prepared import Prepared
from quantexp.runtimes.program import Program
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

REPAIR = "use runtime=eager, and leave compiled out of benchmark.runtimes"


@dataclass(frozen=True, kw_only=True)
class CompiledNetwork(Prepared):
    """A network compiled for one batch size.

    Attributes:
        program: The compiled program.
        network: Its function.
        batch_size: The batch size.
        seconds: The time of the compilation, without a cache.
        max_difference: The largest difference of its outputs from those of eager execution.
        ran: The multiplying operators that ran.
        in_float: Why layers with int8 weights run in float, by name.
    """

    program: Program
    network: Callable[..., Any]
    batch_size: int
    seconds: float
    max_difference: float
    ran: tuple[Operator, ...]
    in_float: Mapping[str, str] = field(default_factory=dict)

    def copied(self) -> Callable[..., Any]:
        """Move the weights to other addresses in memory, and return the same function, which uses them there."""
        self.program.move()
        return self.program.function

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that ran when the compiled network was checked."""
        return self.ran


def require(runtime: Compiled) -> None:
    """Check that there is a C++ compiler. Raises BenchmarkError."""
    require_compiler(runtime.name, REPAIR)


def prepare(runtime: Compiled, network: nn.Module, batch: Batch, engine: Engine | None) -> CompiledNetwork:
    """Compile `network` for batches like `batch`, and check that the outputs are the same as in eager execution.

    The caller sets the threads first: a program runs with the threads that it was compiled with.

    Raises:
        BenchmarkError: If it cannot be compiled on this machine, or its outputs differ.
    """
    require(runtime)
    with torch.inference_mode():
        batch = tuple(tensor.clone() for tensor in batch)  # made in inference mode, like the batches that are timed
        expected = network(*batch)
    eager = Watch()
    with torch.no_grad(), eager:
        network(*batch)
    try:
        program = Program(network, batch, max_autotune=runtime.max_autotune)
    except MemoryError:
        raise
    except Exception as error:  # the compilers can raise anything
        rule = "runtime=compiled needs a network that torch.compile can compile as one graph"
        raise BenchmarkError(f"{rule}, but it failed ({reason(error)}); {REPAIR}") from error
    log.info("compile   for batches of %d: %.1f s", size(batch), program.seconds)
    ran = attributed((program.watch(batch), program.lowering.templates), eager, size(batch), GENERATED)
    with torch.inference_mode():
        found, precisions = program.function(*batch), [operator.precision for operator in ran]
        difference = largest_difference(
            "a compiled network", lambda: network(*batch), expected, found, precisions, REPAIR
        )
    return CompiledNetwork(
        program=program,
        network=program.function,
        batch_size=size(batch),
        seconds=program.seconds,
        max_difference=difference,
        ran=ran,
        in_float=program.lowering.in_float(network),
    )

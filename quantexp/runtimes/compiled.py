"""torch.compile: the network is compiled for one batch size with frozen weights, and compared with eager execution."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from quantexp.config import Compiled, Engine
from quantexp.quant.inspection.watch import Watch
from quantexp.results import Operator
from quantexp.runtimes.agreement import largest_difference
from quantexp.runtimes.prepared import Prepared
from quantexp.runtimes.program import Program
from quantexp.system.environment import compiler
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

GENERATED = "inductor.generated"  # products in generated C++ code, which calls no operator
REPAIR = "use runtime=eager, and leave compiled out of benchmark.runtimes"
LONGEST_REASON = 300  # characters


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
    """

    program: Program
    network: Callable[..., Any]
    batch_size: int
    seconds: float
    max_difference: float
    ran: tuple[Operator, ...]

    def copied(self) -> Callable[..., Any]:
        """Move the weights to other addresses in memory, and return the same function, which uses them there."""
        self.program.move()
        return self.program.function

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that ran when the compiled network was checked."""
        return self.ran


def require(runtime: Compiled) -> None:
    """Check that there is a C++ compiler. Raises BenchmarkError."""
    if compiler() is None:
        raise BenchmarkError(
            "runtime=compiled needs a C++ compiler, none was found; install one such as g++, or set $CXX to yours, "
            f"or {REPAIR}"
        )


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
    try:
        program = Program(network, batch)
    except MemoryError:
        raise
    except Exception as error:  # the compilers can raise anything
        rule = "runtime=compiled needs a network that torch.compile can compile as one graph"
        raise BenchmarkError(f"{rule}, but it failed ({_reason(error)}); {REPAIR}") from error
    log.info("compile   for batches of %d: %.1f s", size(batch), program.seconds)
    ran = _ran(program, network, batch)
    with torch.inference_mode():
        found, precisions = program.function(*batch), [operator.precision for operator in ran]
        difference = largest_difference("a compiled network", expected, found, precisions, REPAIR)
    return CompiledNetwork(
        program=program,
        network=program.function,
        batch_size=size(batch),
        seconds=program.seconds,
        max_difference=difference,
        ran=ran,
    )


def _ran(program: Program, network: nn.Module, batch: Batch) -> tuple[Operator, ...]:
    """Return the multiplying operators of the program; missing products are attributed to generated code."""
    seen, eager = program.watch(batch), Watch()
    with torch.no_grad(), eager:
        network(*batch)
    rest = (sum(eager.macs.values()) - sum(seen.macs.values())) // size(batch)
    operators = seen.operators(size(batch))
    if rest <= 0:
        return operators
    _, precision = max(eager.macs, key=lambda key: eager.macs[key])
    return (*operators, Operator(GENERATED, precision, 1, rest))


def _reason(error: Exception) -> str:
    """Return the message of an error of torch, without its hints and its stack."""
    lines = [line.strip() for line in str(error).splitlines()]
    explanations = [line.removeprefix("Explanation: ") for line in lines if line.startswith("Explanation: ")]
    if explanations:
        message = [lines[0], *explanations]
    else:  # the first paragraph
        message = list(itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, lines)))
    return " ".join(f"{type(error).__name__}: {' '.join(message)}".split())[:LONGEST_REASON]

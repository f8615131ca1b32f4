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
from quantexp.runtimes.program import Program
from quantexp.statistics.sqnr import compared
from quantexp.system.environment import compiler
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

# The least SQNR of the outputs in dB, with eager execution as the reference, by the precision of the products: fused
# sums differ in their last bits, which can change the rounding to integers by one step, in each layer anew.
LEAST_SQNR_DB = {"int8": 20.0, "int4": 20.0, "bf16": 30.0, "fp16": 30.0}
LEAST_FLOAT_SQNR_DB = 60.0
GENERATED = "inductor.generated"  # products in generated C++ code, which calls no operator
REPAIR = "use runtime=eager, and leave compiled out of benchmark.runtimes"
LONGEST_REASON = 300  # characters


@dataclass(frozen=True)
class CompiledNetwork:
    """A network compiled for one batch size.

    Attributes:
        program: The compiled program.
        batch_size: The batch size.
        max_difference: The largest difference of its outputs from those of eager execution.
        ran: The multiplying operators that ran.
    """

    program: Program
    batch_size: int
    max_difference: float
    ran: tuple[Operator, ...]

    @property
    def network(self) -> Callable[..., Any]:
        """The compiled function."""
        return self.program.function

    @property
    def seconds(self) -> float:
        """The time of the compilation, without a cache."""
        return self.program.seconds

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
        difference, found = compared(expected, program.function(*batch))
    least = min(
        (LEAST_SQNR_DB.get(operator.precision, LEAST_FLOAT_SQNR_DB) for operator in ran), default=LEAST_FLOAT_SQNR_DB
    )
    if not found >= least:
        raise BenchmarkError(
            "the outputs of a compiled network must equal those of eager execution up to rounding "
            f"(SQNR of at least {least:g} dB); they have {found:.1f} dB and differ by up to {difference:.2g}; {REPAIR}"
        )
    return CompiledNetwork(program, size(batch), difference, ran)


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

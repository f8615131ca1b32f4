"""torch.compile: a network compiled for one batch size, its weights frozen, checked against eager execution."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Compiled, Engine
from quantexp.quant.inspection.watch import Watch
from quantexp.results import Operator
from quantexp.runtimes.program import Program
from quantexp.system.environment import compiler
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

# What the outputs may differ from those in eager execution, as a share of the greatest, by the precision that
# multiplies: fused sums differ in their last bits; near the middle between two integers these decide about a step.
TOLERANCES = {"int8": 1e-2, "int4": 1e-2, "bf16": 2e-2, "fp16": 2e-2}
TOLERANCE = 1e-3
GENERATED = "inductor.generated"  # what is multiplied in generated C++, where no operator is called
REPAIR = "use runtime=eager, and leave compiled out of benchmark.runtimes"
LONGEST_REASON = 300  # characters


@dataclass(frozen=True)
class CompiledNetwork:
    """A network compiled for one batch size.

    Attributes:
        program: What was compiled.
        batch_size: The batch size.
        max_difference: Greatest difference of its outputs from the eager network's.
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
        """What compiling took, with no cache of an earlier one."""
        return self.program.seconds

    def copied(self) -> Callable[..., Any]:
        """Move the weights elsewhere in memory, and return the same function, which finds them there."""
        self.program.move()
        return self.program.function

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that ran when the network was compiled and checked."""
        return self.ran


def require(runtime: Compiled) -> None:
    """Make sure that there is a C++ compiler. Raises BenchmarkError."""
    if compiler() is None:
        raise BenchmarkError(
            "runtime=compiled needs a C++ compiler, and none is found; install one such as g++, or name yours in $CXX, "
            f"or {REPAIR}"
        )


def prepare(runtime: Compiled, network: nn.Module, batch: Batch, engine: Engine | None) -> CompiledNetwork:
    """Compile `network` for batches like `batch`, and make sure that the program computes what the network does.

    The caller has set the threads: a program runs with as many as it was compiled under.

    Raises:
        BenchmarkError: If it cannot be compiled here, or computes something else.
    """
    require(runtime)
    with torch.inference_mode():
        batch = tuple(tensor.clone() for tensor in batch)  # made in inference mode, as those that are timed
        expected = network(*batch)
    try:
        program = Program(network, batch)
    except MemoryError:
        raise
    except Exception as error:  # whatever the compilers stumble over
        rule = "runtime=compiled needs a network that torch.compile makes one program of"
        raise BenchmarkError(f"{rule}, it does not ({_reason(error)}); {REPAIR}") from error
    log.info("compile   for batches of %d: %.1f s", size(batch), program.seconds)
    ran = _ran(program, network, batch)
    with torch.inference_mode():
        difference = _difference(expected, program.function(*batch))
    allowed = max(TOLERANCES.get(one.precision, TOLERANCE) for one in ran) if ran else TOLERANCE
    allowed *= max(1.0, float(expected.abs().nan_to_num(0.0, 0.0).max()))
    if not difference <= allowed:
        raise BenchmarkError(
            f"a compiled network must compute what it does in eager execution, to {allowed:.2g}; "
            f"its outputs differ by {difference:.2g}; {REPAIR}"
        )
    return CompiledNetwork(program, size(batch), difference, ran)


def _ran(program: Program, network: nn.Module, batch: Batch) -> tuple[Operator, ...]:
    """Return the operators that multiply in the program, and what of the eager network's is left for generated code."""
    seen, eager = program.watch(batch), Watch()
    with torch.no_grad(), eager:
        network(*batch)
    rest = (sum(eager.macs.values()) - sum(seen.macs.values())) // size(batch)
    found = seen.operators(size(batch))
    if rest <= 0:
        return found
    _, precision = max(eager.macs, key=lambda key: eager.macs[key])
    return (*found, Operator(GENERATED, precision, 1, rest))


def _difference(expected: Tensor, found: Tensor) -> float:
    """Return the greatest difference; values that are no finite numbers must be the same."""
    same = (expected == found) | (expected.isnan() & found.isnan())
    return float((expected - found).abs().masked_fill(same, 0.0).max())


def _reason(error: Exception) -> str:
    """Return what torch says of a failure, without its hints and its stack."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line.removeprefix("Explanation: ") for line in lines if line.startswith("Explanation: ")]
    said = [lines[0], *told] if told else _until_blank(lines)
    return " ".join(f"{type(error).__name__}: {' '.join(said)}".split())[:LONGEST_REASON]


def _until_blank(lines: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if not line and kept:
            break
        kept.append(line)
    return kept

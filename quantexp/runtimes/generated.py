"""The multiplying operators of a program, with the products that no operator shows."""

from __future__ import annotations

from collections.abc import Sequence

from quantexp.quant.inspection.watch import Watch
from quantexp.results import Operator

FLOATS = ("fp32", "fp64", "bf16", "fp16")


def attributed(known: Sequence[Watch], eager: Watch, examples: int, name: str) -> tuple[Operator, ...]:
    """Return the multiplying operators of a program for a batch of `examples`.

    Args:
        known: The products that are known.
        eager: Those in eager execution. What is missing of them is attributed to generated code, in the float precision
            with most multiply-accumulates: nothing proves that they are products of integers.
        examples: The size of the batch.
        name: What the generated code is called.
    """
    operators = tuple(operator for watch in known for operator in watch.operators(examples))
    rest = (sum(eager.macs.values()) - sum(sum(watch.macs.values()) for watch in known)) // examples
    if rest <= 0:
        return operators
    floats = {precision: count for (_, precision), count in eager.macs.items() if precision in FLOATS}
    precision = max(floats, key=lambda known_name: floats[known_name], default=FLOATS[0])
    return (*operators, Operator(name, precision, 1, rest))

"""The pairs of a method and a runtime that a study chooses from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from quantexp.config.quant import METHODS, ByLayer
from quantexp.config.runtime import Runtime, runtime_named
from quantexp.system.errors import Mismatch


@dataclass(frozen=True)
class Pair:
    """A method in a runtime; `fault` is the rule that forbids it, empty if the runtime executes it."""

    quant: ByLayer
    precision: str
    runtime: Runtime
    fault: str = ""

    @property
    def name(self) -> str:
        """Method and runtime: `static in onnxruntime`."""
        return f"{self.quant.name} in {self.runtime.name}"


def pairs(
    methods: Sequence[str], runtimes: Sequence[str], quant: ByLayer, precision: str, runtime: Runtime
) -> Iterator[Pair]:
    """Yield each method in each runtime, also those that the runtime does not execute.

    Args:
        methods: The names of the methods, none for `quant` alone. Others than `quant` have their default settings, and
            its layers.
        runtimes: The names of the runtimes, none for `runtime` alone.
        quant: The method that is set.
        precision: Its precision.
        runtime: The runtime that is set.
    """
    classes = {method.name: method for method in METHODS if issubclass(method, ByLayer)}
    for name in runtimes or [runtime.name]:
        chosen = runtime if name == runtime.name else runtime_named(name)()
        for method in methods or [quant.name]:
            if method == quant.name:
                yield _pair(quant, precision, chosen)
            else:
                other = classes[method](include=list(quant.include), exclude=list(quant.exclude))
                yield _pair(other, other.precisions[0], chosen)


def _pair(quant: ByLayer, precision: str, runtime: Runtime) -> Pair:
    """Return a method as it is set or, if the runtime executes no such network, in the first flow that it executes."""
    fault = next(runtime.combination_faults(quant, precision), None)
    if fault is None:
        return Pair(quant, precision, runtime)
    for flow in quant.possible(precision) if quant.flow is None else ():
        other = replace(quant, flow=flow)
        if not any(runtime.combination_faults(other, precision)):
            return Pair(other, precision, runtime)
    return Pair(quant, precision, runtime, fault.rule if isinstance(fault, Mismatch) else fault)

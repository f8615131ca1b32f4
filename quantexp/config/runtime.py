"""What executes the networks that are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from quantexp.config.levers import Flow
from quantexp.config.option import RESULT, Option, option
from quantexp.config.quant import ByLayer, Quant
from quantexp.system.errors import Mismatch


@dataclass
class Runtime(Option):
    """A way to execute a network. `target` is the form that a quantized network must have for it.

    kernels: layers, or operators of a graph, that call integer kernels; qdq: a graph of float operators between
    pairs of quantize and dequantize, which a compiler turns into kernels. `precisions` are those that it executes, None
    for all. `exports` tells whether the network is exported for it, after which torch forgets what it compiled, so that
    this comes first; `fixes_batch` whether a network is prepared for one batch size.
    """

    group: ClassVar[str] = "runtime"
    target: ClassVar[str] = "kernels"
    flows: ClassVar[tuple[Flow, ...] | None] = None  # whose networks it executes; None: those of all
    expands: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # methods and precisions whose weights it makes floats of
    precisions: ClassVar[tuple[str, ...] | None] = None
    exports: ClassVar[bool] = False
    fixes_batch: ClassVar[bool] = False

    def combination_faults(self, quant: Quant, precision: str) -> Iterator[str]:
        """Yield why the runtime does not execute what the method leaves in this precision."""
        if isinstance(quant, ByLayer) and self.flows is not None:
            candidates = quant.candidates(precision)
            if not set(candidates) & set(self.flows):
                possible = [flow.value for flow in quant.flows if flow in self.flows]
                repair = f"use quant.flow={' or '.join(possible)}" if possible else "use runtime=eager"
                given = f"quant.flow={quant.flow}" if quant.flow else f"quant={quant.name} with these settings"
                yield Mismatch(f"runtime={self.name} does not execute networks of {given}", f"; {repair}")
        if not quant.timed and not isinstance(self, Eager):
            yield Mismatch(
                f"quant={quant.name} is a simulation in float, which runtime={self.name} does not execute",
                "; use runtime=eager",
            )
        elif self.precisions is not None and precision not in self.precisions:
            yield Mismatch(
                f"runtime={self.name} does not execute quant={quant.name} with precision={precision}",
                f", it executes {' and '.join(self.precisions)}; use runtime=eager",
            )
        if precision in self.expands.get(quant.name, ()):
            yield Mismatch(
                f"runtime={self.name} makes floats of the {precision} weights of quant={quant.name}, so that "
                "nothing quantized is executed",
                "; use runtime=eager or another method",
            )


@dataclass
class Eager(Runtime):
    """PyTorch as it is, operator by operator."""

    name: ClassVar[str] = "eager"
    implementation: ClassVar[str] = "quantexp.runtimes.eager"


def _max_autotune() -> Any:
    return option("search for the fastest kernels, which takes minutes", False, affects=RESULT, unchanged=False)


@dataclass
class Compiled(Runtime):
    """torch.compile for each batch size, with the weights frozen; needs a C++ compiler."""

    name: ClassVar[str] = "compiled"
    implementation: ClassVar[str] = "quantexp.runtimes.compiled"
    target: ClassVar[str] = "qdq"
    flows: ClassVar[tuple[Flow, ...] | None] = (Flow.pt2e, Flow.torchao)
    expands: ClassVar[Mapping[str, tuple[str, ...]]] = {"weight_only": ("int8",)}
    fixes_batch: ClassVar[bool] = True

    max_autotune: bool = _max_autotune()


@dataclass
class Aot(Runtime):
    """AOTInductor, which exports and compiles ahead of time for each batch size; needs a C++ compiler."""

    name: ClassVar[str] = "aot"
    implementation: ClassVar[str] = "quantexp.runtimes.aot"
    target: ClassVar[str] = "qdq"
    flows: ClassVar[tuple[Flow, ...] | None] = (Flow.pt2e, Flow.torchao)
    expands: ClassVar[Mapping[str, tuple[str, ...]]] = {"weight_only": ("int8",)}
    exports: ClassVar[bool] = True
    fixes_batch: ClassVar[bool] = True

    max_autotune: bool = _max_autotune()


@dataclass
class TorchScript(Runtime):
    """TorchScript, from a trace of the network, which runs without Python; torch.jit is deprecated."""

    name: ClassVar[str] = "torchscript"
    implementation: ClassVar[str] = "quantexp.runtimes.torchscript"
    flows: ClassVar[tuple[Flow, ...] | None] = (Flow.fx, Flow.eager)


@dataclass
class OnnxRuntime(Runtime):
    """ONNX Runtime, from a network exported to ONNX; needs the packages onnxruntime, onnx and onnxscript."""

    name: ClassVar[str] = "onnxruntime"
    implementation: ClassVar[str] = "quantexp.runtimes.onnxruntime"
    target: ClassVar[str] = "qdq"
    flows: ClassVar[tuple[Flow, ...] | None] = (Flow.pt2e,)
    precisions: ClassVar[tuple[str, ...] | None] = ("fp32", "int8")
    exports: ClassVar[bool] = True


RUNTIMES: tuple[type[Runtime], ...] = (Eager, Compiled, Aot, TorchScript, OnnxRuntime)

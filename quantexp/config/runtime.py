"""What executes the networks that are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from quantexp.config.levers import OF_ONE_RUNTIME, Flow
from quantexp.config.option import RESULT, Option, option
from quantexp.config.quant import ByLayer, Dynamic, Quant
from quantexp.system.errors import Mismatch

RANGES_AT_EACH_CALL = {Flow.pt2e: (Dynamic.name,)}  # torch.onnx exports no operator that finds them


@dataclass
class Runtime(Option):
    """A way to execute a network. `target` is the form that a quantized network must have for it.

    kernels: layers, or operators of a graph, that call integer kernels; qdq: a graph of float operators between
    pairs of quantize and dequantize, which a compiler turns into kernels; xnnpack: such a graph with the pairs that
    XNNPACK has kernels for. `precisions` are those that it executes, None for all. `exports` tells whether the network
    is exported for it, after which torch forgets what it compiled, so that this comes first. `file` is the name of the
    file that it executes, empty if there is none; with `fixed`, what is exported is for one batch size.
    """

    group: ClassVar[str] = "runtime"
    target: ClassVar[str] = "kernels"
    flows: ClassVar[tuple[Flow, ...] | None] = None  # whose networks it executes; None: all but those of one runtime
    lacks: ClassVar[Mapping[Flow, tuple[str, ...]]] = {}  # methods in these flows whose operators it does not have
    expands: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # methods and precisions whose weights it makes floats of
    precisions: ClassVar[tuple[str, ...] | None] = None
    exports: ClassVar[bool] = False
    file: ClassVar[str] = ""
    fixed: ClassVar[bool] = False

    @classmethod
    def executes(cls, method: type[Quant], flow: Flow) -> bool:
        """Return whether it executes networks that a method quantized in a flow."""
        of_flow = flow not in OF_ONE_RUNTIME if cls.flows is None else flow in cls.flows
        return of_flow and method.name not in cls.lacks.get(flow, ())

    def combination_faults(self, quant: Quant, precision: str) -> Iterator[str]:
        """Yield why the runtime does not execute what the method leaves in this precision."""
        if isinstance(quant, ByLayer):
            method, candidates = type(quant), quant.candidates(precision)
            executed = any(self.executes(method, flow) for flow in candidates)
            if candidates and not executed:  # without one, the precision is a fault already
                possible = [flow.value for flow in quant.flows if self.executes(method, flow)]
                others = [
                    runtime.name for runtime in RUNTIMES if any(runtime.executes(method, flow) for flow in candidates)
                ]
                repair = f"use quant.flow={' or '.join(possible)}" if possible else f"use runtime={' or '.join(others)}"
                if possible and Eager.name not in others:
                    repair = f"{repair}, or runtime={' or '.join(others)}"
                given = f"quant.flow={quant.flow}" if quant.flow else f"quant={quant.name} with these settings"
                if quant.flow in (self.flows or ()):
                    given = f"quant={quant.name} {given}"
                yield Mismatch(f"runtime={self.name} does not execute networks of {given}", f"; {repair}")
                return
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
    fixed: ClassVar[bool] = True

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
    fixed: ClassVar[bool] = True

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
    flows: ClassVar[tuple[Flow, ...] | None] = (Flow.pt2e, Flow.onnxruntime)
    lacks: ClassVar[Mapping[Flow, tuple[str, ...]]] = RANGES_AT_EACH_CALL
    precisions: ClassVar[tuple[str, ...] | None] = ("fp32", "int8")
    exports: ClassVar[bool] = True
    file: ClassVar[str] = "network.onnx"


@dataclass
class OpenVino(Runtime):
    """OpenVINO on the CPU in float32, from a network exported to ONNX; needs openvino, onnx and onnxscript."""

    name: ClassVar[str] = "openvino"
    implementation: ClassVar[str] = "quantexp.runtimes.openvino"
    target: ClassVar[str] = "qdq"
    flows: ClassVar[tuple[Flow, ...] | None] = (Flow.pt2e, Flow.nncf)
    lacks: ClassVar[Mapping[Flow, tuple[str, ...]]] = RANGES_AT_EACH_CALL
    precisions: ClassVar[tuple[str, ...] | None] = ("fp32", "int8")
    exports: ClassVar[bool] = True
    file: ClassVar[str] = "network.onnx"


@dataclass
class Executorch(Runtime):
    """ExecuTorch with the kernels of XNNPACK, from a network exported to a .pte file; needs the package executorch."""

    name: ClassVar[str] = "executorch"
    implementation: ClassVar[str] = "quantexp.runtimes.executorch"
    target: ClassVar[str] = "xnnpack"
    flows: ClassVar[tuple[Flow, ...] | None] = (Flow.pt2e,)
    precisions: ClassVar[tuple[str, ...] | None] = ("fp32", "int8")
    exports: ClassVar[bool] = True
    file: ClassVar[str] = "network.pte"
    fixed: ClassVar[bool] = True

    def combination_faults(self, quant: Quant, precision: str) -> Iterator[str]:
        """Yield why the runtime does not execute what the method leaves in this precision."""
        yield from super().combination_faults(quant, precision)
        if getattr(quant, "reduce_range", None):
            yield Mismatch(
                f"quant.reduce_range=true is not supported by runtime={self.name}",
                ", whose kernels add in 32 bits; leave it out",
            )


RUNTIMES: tuple[type[Runtime], ...] = (Eager, Compiled, Aot, TorchScript, OnnxRuntime, OpenVino, Executorch)


def runtime_named(name: str) -> type[Runtime]:
    """Return the runtime with a name, which must be that of one."""
    return next(runtime for runtime in RUNTIMES if runtime.name == name)


def faults_of_names(setting: str, names: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with a setting that names runtimes."""
    known = [runtime.name for runtime in RUNTIMES]
    for name in names:
        if name not in known:
            yield f"{setting} must name runtimes ({', '.join(known)}), got {name!r}"
    if len(set(names)) < len(names):
        yield f"{setting} must name each runtime once, got [{','.join(names)}]"

"""What executes the networks that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from quantexp.config.levers import Flow
from quantexp.config.option import Option


@dataclass
class Runtime(Option):
    """A way to execute a network. `target` is the form that a quantized network must have for it.

    kernels: layers, or operators of a graph, that call integer kernels; qdq: a graph of float operators between
    pairs of quantize and dequantize, which a compiler turns into kernels.
    """

    group: ClassVar[str] = "runtime"
    target: ClassVar[str] = "kernels"
    flows: ClassVar[tuple[Flow, ...] | None] = None  # whose networks it executes; None: those of all
    expands: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # methods and precisions whose weights it makes floats of


@dataclass
class Eager(Runtime):
    """PyTorch as it is, operator by operator."""

    name: ClassVar[str] = "eager"
    implementation: ClassVar[str] = "quantexp.runtimes.eager"


@dataclass
class Compiled(Runtime):
    """torch.compile for each batch size, with the weights frozen; needs a C++ compiler."""

    name: ClassVar[str] = "compiled"
    implementation: ClassVar[str] = "quantexp.runtimes.compiled"
    target: ClassVar[str] = "qdq"
    flows: ClassVar[tuple[Flow, ...] | None] = (Flow.pt2e, Flow.torchao)
    expands: ClassVar[Mapping[str, tuple[str, ...]]] = {"weight_only": ("int8",)}


RUNTIMES: tuple[type[Runtime], ...] = (Eager, Compiled)

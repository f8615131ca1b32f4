"""The products in the graph that Inductor generates code from, where most of them call no operator of torch.

A node of that graph is the call of a kernel of a library, a template of C++ code for a product of matrices, or a loop.
The products of loops are not recorded here, they are what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import ir
from torch._inductor.codegen.cpp_bmm_template import CppBmmTemplate
from torch._inductor.codegen.cpp_gemm_template import CppGemmTemplate
from torch._inductor.virtualized import V

from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.inspection.products import Call
from quantexp.quant.inspection.watch import NAMES, Watch

GENERATED = "inductor.generated"  # products in generated loops
PRODUCTS = {CppGemmTemplate: "inductor.gemm", CppBmmTemplate: "inductor.bmm"}  # templates of a product of two matrices
BYTES = (torch.int8, torch.uint8)


class Lowering:
    """Records the products of a graph: an object that Inductor calls with its nodes, before it generates their code.

    Attributes:
        kernels: The calls of kernels of libraries, named as their operators.
        templates: The products in templates.
    """

    def __init__(self) -> None:
        self.kernels, self.templates = Watch(), Watch()
        self._in_int8: set[bytes] = set()

    def __call__(self, nodes: list[Any]) -> list[Any]:
        """Record the products of the nodes of the scheduler, and return the nodes as they are."""
        found: list[Any] = [part.node for node in nodes for part in node.get_nodes()]
        several: Any = ir.MultiOutput  # what takes a tensor from the results of a node
        outputs = {node.inputs[0].get_name(): _shaped(node) for node in found if isinstance(node, several)}
        for node in found:
            if isinstance(node, ir.CppTemplateBuffer):
                self._record_template(node)
            elif isinstance(node, ir.ExternKernel) and getattr(node, "op_overload", None) is not None:
                result = outputs.get(node.get_name())
                self._record_kernel(node, _shaped(node) if result is None else result)
        return nodes

    def in_float(self, network: nn.Module) -> dict[str, str]:
        """Return the layers of the network with int8 weights that no product in int8 takes, each with the reason."""
        return {
            held.name: "its weight is int8, but the generated code multiplies it in no int8 kernel that is known"
            for held in held_weights(network)
            if NAMES.get(held.dtype) == "int8" and held.weight.dim() > 1
            if _values(getattr(held.weight, "qdata", held.weight)) not in self._in_int8
        }

    def _record_kernel(self, node: Any, result: Tensor | None) -> None:
        if result is None or not isinstance(node.op_overload, torch._ops.OpOverload):
            return
        if hasattr(node, "unflatten_args"):
            given, named = node.unflatten_args(node.inputs, node.constant_args)
        else:
            given, named = (*node.inputs, *node.constant_args), node.kwargs
        arguments = tuple(_shaped(value) if isinstance(value, ir.IRNode) else value for value in given)
        call = Call(node.op_overload, arguments, dict(named or {}), result)
        before = sum(count for (_, precision), count in self.kernels.calls.items() if precision == "int8")
        self.kernels.record(call)
        if sum(count for (_, precision), count in self.kernels.calls.items() if precision == "int8") > before:
            self._keep_weights(node.inputs)

    def _record_template(self, node: Any) -> None:
        """Record a product of the first two inputs; it is one of integers if both are, whatever follows it."""
        name, result = PRODUCTS.get(type(node.template)), _shaped(node)
        if name is None or result is None:
            return
        left, right = (_shaped(value) for value in node.inputs[:2])
        if left is None or right is None:
            return
        integers = left.dtype in BYTES and right.dtype in BYTES
        precision = "int8" if integers else NAMES.get(left.dtype, str(left.dtype))
        self.templates.add(name, precision, result.numel() * int(left.shape[-1]))
        if integers:
            self._keep_weights(node.inputs[:2])

    def _keep_weights(self, inputs: Iterable[Any]) -> None:
        constants: Mapping[str, Tensor] = V.graph.constants
        for value in inputs:
            constant = constants.get(value.get_name())
            if constant is not None and constant.dtype is torch.int8:
                self._in_int8.add(_values(constant.to_dense() if constant.is_mkldnn else constant))


def _shaped(node: Any) -> Tensor | None:
    """Return a tensor without memory that has the shape and dtype of a node, None if it has several results."""
    try:
        shape, dtype = [int(length) for length in node.get_size()], node.get_dtype()
    except (NotImplementedError, TypeError):
        return None
    return torch.empty(shape, dtype=dtype, device="meta")


def _values(weight: Tensor) -> bytes:
    """Return how often each value but 0 is in an int8 weight: the same however it is packed, with zeros added."""
    counts = torch.bincount(weight.detach().flatten().int() + 128, minlength=256)
    counts[128] = 0
    return counts.numpy().tobytes()

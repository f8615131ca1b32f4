"""torchao's patterns of convolutions with batch normalisation, exported once in a process.

torchao exports some hundred of them whenever it prepares or converts, for kinds of convolutions that the network does
not have too, which takes longer than much of the training that people do with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional
from torchao.quantization.pt2e import qat_utils

aten = torch.ops.aten
OPERATORS: dict[Any, Any] = {
    functional.conv1d: aten.conv1d.default,
    functional.conv2d: aten.conv2d.default,
    functional.conv_transpose1d: aten.conv_transpose1d.default,
    functional.conv_transpose2d: aten.conv_transpose2d.input,
}
EXPORT = "_get_aten_graph_module_for_pattern"  # the function of torchao that exports a pattern
HELPERS = ("_fuse_conv_bn_qat_helper", "_fold_conv_bn_qat_helper")  # those that look for the patterns of one kind

_exported: dict[Any, Any] = {}


@contextmanager
def patterns_exported_once() -> Iterator[None]:
    """Let torchao use the patterns that it exported before, and only those of convolutions in the graph."""
    wrapping = {EXPORT: _once, **dict.fromkeys(HELPERS, _where_there_are_any)}
    originals = {name: vars(qat_utils)[name] for name in wrapping if name in vars(qat_utils)}  # by version of torchao
    for name, original in originals.items():
        setattr(qat_utils, name, wrapping[name](original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(qat_utils, name, original)


def _where_there_are_any(helper: Callable[..., Any]) -> Callable[..., Any]:
    def helped(graph: fx.GraphModule, convolution: Any, *arguments: Any, **options: Any) -> Any:
        wanted = OPERATORS.get(convolution)
        if wanted is not None and not any(node.target is wanted for node in graph.graph.nodes):
            return graph
        return helper(graph, convolution, *arguments, **options)

    return helped


def _once(export: Callable[..., Any]) -> Callable[..., Any]:
    def exported(pattern: Any, *arguments: Any, **options: Any) -> Any:
        function = getattr(pattern, "fn", pattern)
        settings = tuple(cell.cell_contents for cell in function.__closure__ or ())
        key = (function.__qualname__, settings, _shapes(arguments), _shapes(sorted(options.items())))
        if key not in _exported:
            _exported[key] = export(pattern, *arguments, **options)
        return copy.deepcopy(_exported[key])  # the rewriter may change it

    return exported


def _shapes(value: Any) -> Any:
    """Return the value with a shape and dtype for each tensor."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return tuple(_shapes(one) for one in value) if isinstance(value, tuple | list) else value

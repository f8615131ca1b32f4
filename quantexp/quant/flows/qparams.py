"""The scales and zero points of activations, which are constant numbers in the graphs of PT2E.

A network also has them in a buffer, so that they are part of its state. When a state is loaded, it writes them into the
graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx


def qparams(graphs: Sequence[fx.GraphModule]) -> Tensor:
    """Return the scales and zero points that are numbers in the graphs, float64."""
    return torch.tensor([number for *_, number in _numbers(graphs)], dtype=torch.float64)


def write_qparams(graphs: Sequence[fx.GraphModule], values: Tensor) -> None:
    """Write the result of `qparams` into graphs of the same structure."""
    for (node, index, number), value in zip(list(_numbers(graphs)), values.tolist(), strict=True):
        node.update_arg(index, int(value) if isinstance(number, int) else value)
    for graph in graphs:
        graph.recompile()


def _numbers(graphs: Iterable[fx.GraphModule]) -> Iterator[tuple[fx.Node, int, float]]:
    """Yield the node, the index of the argument and the number of each scale and zero point."""
    for node in (node for graph in graphs for node in graph.graph.nodes):
        schema = getattr(getattr(node.target, "default", node.target), "_schema", None)
        for index, argument in enumerate(schema.arguments[: len(node.args)] if schema else ()):
            value = node.args[index]
            if argument.name.endswith(("scale", "zero_point")) and isinstance(value, int | float):
                yield node, index, value

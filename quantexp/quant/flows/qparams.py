"""The scales and zero points of activations, which stand in the graphs of PT2E as numbers.

A network keeps them as a buffer beside its graphs, so that they are part of its state, and writes them into the graphs
when a state is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx


def qparams(graphs: Sequence[fx.GraphModule]) -> Tensor:
    """Return the scales and zero points that stand in the graphs as numbers, float64."""
    return torch.tensor([number for *_, number in _numbers(graphs)], dtype=torch.float64)


def write_qparams(graphs: Sequence[fx.GraphModule], values: Tensor) -> None:
    """Write what `qparams` gave into graphs of the same structure."""
    for (node, index, number), given in zip(list(_numbers(graphs)), values.tolist(), strict=True):
        node.update_arg(index, int(given) if isinstance(number, int) else given)
    for graph in graphs:
        graph.recompile()


def _numbers(graphs: Iterable[fx.GraphModule]) -> Iterator[tuple[fx.Node, int, float]]:
    """Yield node, argument and number of each."""
    for node in (node for graph in graphs for node in graph.graph.nodes):
        schema = getattr(getattr(node.target, "default", node.target), "_schema", None)
        for index, argument in enumerate(schema.arguments[: len(node.args)] if schema else ()):
            value = node.args[index]
            if argument.name.endswith(("scale", "zero_point")) and isinstance(value, int | float):
                yield node, index, value

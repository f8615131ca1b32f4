"""Constants of a graph traced by FX that depend on whether the network trains: F.dropout(x, 0.5, self.training).

torch.ao traces the network in training for QAT, so that such a call would drop values for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.ao.quantization.fx.tracer import QuantizationTracer

from quantexp.quant.inspection.promise import Wrapper


@dataclass(frozen=True)
class Constant:
    """An argument of a call in a traced graph, by its position or name: its values in evaluation and in training."""

    node: str
    place: int | str
    values: tuple[Any, Any]


class Traced(Wrapper):
    """A prepared graph of FX that can be trained and evaluated like the network it was traced from."""

    def __init__(self, model: nn.Module, constants: list[Constant]) -> None:
        super().__init__(model)
        self.constants = constants

    def forward(self, *batch: Any) -> Any:
        return self.model(*batch)

    def train(self, mode: bool = True) -> Traced:
        """Switch the modules, and the constants of functions."""
        super().train(mode)
        graph: Any = self.model
        for node in graph.graph.nodes:
            for constant in self.__dict__.get("constants", ()):  # it is not there yet when Wrapper switches first
                if constant.node == node.name and isinstance(constant.place, int):
                    node.update_arg(constant.place, constant.values[mode])
                elif constant.node == node.name:
                    node.update_kwarg(constant.place, constant.values[mode])
        graph.recompile()
        return self


def constants_of_modes(model: nn.Module) -> list[Constant]:
    """Trace `model` in both modes and return the constants that differ; its mode stays as it was.

    Nothing is returned if one graph has other calls than the other: what it computes in evaluation is checked anyway.
    """
    mode = model.training
    evaluating, training = (list(QuantizationTracer([], []).trace(model.train(on)).nodes) for on in (False, True))
    model.train(mode)
    if [node.name for node in evaluating] != [node.name for node in training]:
        return []
    return [found for pair in zip(evaluating, training, strict=True) for found in _differing(*pair)]


def _differing(evaluating: fx.Node, training: fx.Node) -> Iterator[Constant]:
    places: list[tuple[int | str, Any, Any]] = [
        *((place, *pair) for place, pair in enumerate(zip(evaluating.args, training.args, strict=False))),
        *((name, value, training.kwargs.get(name)) for name, value in evaluating.kwargs.items()),
    ]
    for place, first, second in places:
        if isinstance(first, bool | int | float) and isinstance(second, bool | int | float) and first != second:
            yield Constant(evaluating.name, place, (first, second))

"""What is tried: every method with each flow, precision and engine that it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from quantexp.config import METHODS, ByLayer, CalibrationSplit, Engine, Experiment, FakeQuant, Flow, Single, Static
from quantexp.results.compatibility import Cell

FLOAT = Cell("none", None, "fp32", None)


def cells(engines: Iterable[Engine]) -> Iterator[Cell]:
    """Yield every cell but that of the float network, with these engines where there is a choice."""
    for method in METHODS:
        if not issubclass(method, ByLayer):
            every = (Cell(method.name, None, precision, None) for precision in method.precisions)
            yield from (cell for cell in every if cell != FLOAT)
            continue
        for flow, precisions in method.portable_flows().items():
            chosen = [engine.value for engine in engines] if flow in method.levers.get("engine", ()) else [None]
            yield from (
                Cell(method.name, flow.value, precision, engine) for precision in precisions for engine in chosen
            )


def variant(experiment: Experiment, cell: Cell, examples: int | None = None) -> Experiment:
    """Return the run of a cell; its method keeps its settings if it is the one of `experiment`.

    Args:
        experiment: The experiment of the study.
        cell: What is tried.
        examples: The number of training examples, which limits those for calibration; None if it is not known.

    Raises:
        ConfigError: If the settings do not go together.
    """
    method = next(method for method in METHODS if method.name == cell.method)
    quant = experiment.quant if type(experiment.quant) is method else method()
    changes: dict[str, Any] = {}
    if cell.flow is not None:
        changes = {"flow": Flow(cell.flow), "engine": Engine(cell.engine) if cell.engine else None}
    if examples is not None and isinstance(quant, Static | FakeQuant) and quant.calibration is CalibrationSplit.train:
        changes["calibration_examples"] = min(quant.calibration_examples, examples)
    return replace(experiment, quant=replace(quant, **changes), precision=cell.precision, study=Single())

"""What is tried: every method with each flow, precision and engine that it has, in each runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from quantexp.config import (
    METHODS,
    ByLayer,
    CalibrationSplit,
    Eager,
    Engine,
    Experiment,
    FakeQuant,
    Flow,
    NoQuant,
    Quant,
    Runtime,
    Single,
    Static,
    runtime_named,
)
from quantexp.results.compatibility import Cell


def in_float(runtime: str) -> Cell:
    """Return the cell of the float network in a runtime."""
    return Cell(NoQuant.name, None, NoQuant.precisions[0], None, runtime)


def cells(engines: Sequence[Engine], runtimes: Iterable[str] = (Eager.name,)) -> Iterator[Cell]:
    """Yield every cell that its runtime executes at all, but those of the float network.

    Args:
        engines: What is tried where there is a choice; outside of eager execution it is the first alone.
        runtimes: The runtimes, by name.
    """
    for name in runtimes:
        runtime = runtime_named(name)
        packed = [engine.value for engine in engines][: None if runtime is Eager else 1]
        for quant, precision in _executed(runtime()):
            flow = quant.flow if isinstance(quant, ByLayer) else None
            choice = isinstance(quant, ByLayer) and flow in quant.levers.get("engine", ())
            every = (
                Cell(quant.name, flow.value if flow else None, precision, engine, name)
                for engine in (packed if choice else [None])
            )
            yield from (cell for cell in every if cell != in_float(name))


def _executed(runtime: Runtime) -> Iterator[tuple[Quant, str]]:
    """Yield the methods, in each flow and precision, that the runtime executes, whatever the network."""
    for method in METHODS:
        flows = [(method(), method.precisions)]
        if issubclass(method, ByLayer):
            flows = [(method(flow=flow), precisions) for flow, precisions in method.flows.items()]
        for quant, precisions in flows:
            for precision in precisions:
                if not any(runtime.combination_faults(quant, precision)):
                    yield quant, precision


def variant(experiment: Experiment, cell: Cell, examples: int | None = None) -> Experiment:
    """Return the run of a cell; method and runtime keep their settings if they are those of `experiment`.

    Args:
        experiment: The experiment of the study.
        cell: What is tried.
        examples: The number of training examples, which limits those for calibration; None if it is not known.

    Raises:
        ConfigError: If the settings do not go together.
    """
    method = next(method for method in METHODS if method.name == cell.method)
    quant = experiment.quant if type(experiment.quant) is method else method()
    runtime = experiment.runtime if experiment.runtime.name == cell.runtime else runtime_named(cell.runtime)()
    changes: dict[str, Any] = {}
    if cell.flow is not None:
        changes = {"flow": Flow(cell.flow), "engine": Engine(cell.engine) if cell.engine else None}
    if examples is not None and isinstance(quant, Static | FakeQuant) and quant.calibration is CalibrationSplit.train:
        changes["calibration_examples"] = min(quant.calibration_examples, examples)
    quant = replace(quant, **changes)
    return replace(experiment, quant=quant, precision=cell.precision, runtime=runtime, study=Single())

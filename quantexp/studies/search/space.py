"""The search space: the parts of a network, and the states that a method in a runtime can give to each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from quantexp.config import ByLayer, Experiment, Flow, Static
from quantexp.results import Report
from quantexp.studies.parts import parts_of
from quantexp.studies.search.findings import FLOAT, Choice
from quantexp.system.errors import QuantizationError

DYNAMIC = "dynamic"
State: TypeAlias = tuple[str, ...]  # the method of each part, or FLOAT


@dataclass(frozen=True)
class Space:
    """The search space of one method in one runtime.

    `layers` are those that it quantizes by default, in order; `parts` of them are varied, each over its `states`.
    """

    experiment: Experiment
    layers: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    states: Mapping[str, tuple[str, ...]]

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.experiment.quant.name

    @property
    def runtime(self) -> str:
        """The name of the runtime."""
        return self.experiment.runtime.name

    @property
    def top(self) -> State:
        """Every part quantized."""
        return (self.method,) * len(self.parts)

    @property
    def bottom(self) -> State:
        """Every part in float."""
        return (FLOAT,) * len(self.parts)

    def neighbours(self, state: State) -> Iterator[State]:
        """Yield the states that differ in one part and still quantize something."""
        fixed = len(self.layers) > sum(map(len, self.parts.values()))
        for at, name in enumerate(self.parts):
            for other in self.states[name]:
                changed = (*state[:at], other, *state[at + 1 :])
                if other != state[at] and (fixed or self.method in changed):
                    yield changed

    def choice(self, state: State) -> Choice:
        """Return which layers a state quantizes, and how."""
        became = dict(zip(self.parts, state, strict=True))
        of_layer = {layer: became[name] for name, layers in self.parts.items() for layer in layers}
        method = self.method
        kept = [layer for layer in self.layers if of_layer.get(layer) != FLOAT]
        otherwise = tuple(layer for layer in kept if of_layer.get(layer, method) != method)
        name = _words(became, method, len(of_layer) < len(self.layers))
        return Choice(name, method, tuple(kept), otherwise, self.runtime)

    def variant(self, choice: Choice) -> Experiment:
        """Return the experiment of a choice; for all layers it is the original experiment."""
        quant = self.experiment.quant
        assert isinstance(quant, ByLayer)  # checked by Experiment
        if choice.layers != self.layers:
            quant = replace(quant, include=list(choice.layers))
        if isinstance(quant, Static):
            given = [name for name in quant.dynamic if any(fnmatchcase(layer, name) for layer in choice.layers)]
            quant = replace(quant, dynamic=[*given, *(name for name in choice.dynamic if name not in given)])
        return replace(self.experiment, quant=quant)


def held_by(experiment: Experiment, report: Report) -> tuple[str, ...]:
    """Return the layers that a run quantized, in the order of the network."""
    held = report.result.evidence.held(str(experiment.precision))
    return tuple(layer.name for layer in report.baseline.evidence.layers if layer.name in held)


def spaces_of(patterns: Sequence[str], wholes: Sequence[tuple[Experiment, Report]]) -> list[Space]:
    """Return the search space of each method in each runtime: the parts of all together, as far as it quantizes them.

    Args:
        patterns: The value of `study.layers`; none for every layer.
        wholes: Each method in each runtime with the report of its run that quantizes everything.

    Raises:
        QuantizationError: If `study.layers` matches nothing, or names a layer twice.
    """
    held = {_place(experiment): held_by(experiment, report) for experiment, report in wholes}
    names = (layer.name for layer in wholes[0][1].baseline.evidence.layers)
    every = [name for name in names if any(name in layers for layers in held.values())]
    parts = parts_of(patterns, every)
    _refuse_twice(parts)
    spaces = []
    for experiment, _ in wholes:
        (method, runtime), layers = _place(experiment), held[_place(experiment)]
        own = {name: tuple(layer for layer in inside if layer in layers) for name, inside in parts.items()}
        own = {name: inside for name, inside in own.items() if inside}
        dynamic = set(held.get((DYNAMIC, runtime), ())) if _mixes(experiment) else set()
        states = {
            name: (FLOAT, method, *([DYNAMIC] if dynamic.issuperset(inside) else [])) for name, inside in own.items()
        }
        spaces.append(Space(experiment, layers, own, states))
    return spaces


def _place(experiment: Experiment) -> tuple[str, str]:
    """Return the names of method and runtime."""
    return experiment.quant.name, experiment.runtime.name


def _mixes(experiment: Experiment) -> bool:
    """Return whether a method can leave single layers to dynamic quantization, and `quant.dynamic` is not set."""
    quant = experiment.quant
    mixing = isinstance(quant, Static) and quant.flow in (None, Flow.fx) and not quant.dynamic
    return mixing and experiment.runtime.executes(Static, Flow.fx)


def _refuse_twice(parts: Mapping[str, tuple[str, ...]]) -> None:
    seen: dict[str, str] = {}
    for name, layers in parts.items():
        for layer in layers:
            if layer in seen:
                raise QuantizationError(
                    f"study.layers must name each layer once, {layer} is in {seen[layer]} and in {name}; leave one out"
                )
            seen[layer] = name


def _words(became: Mapping[str, str], method: str, others: bool) -> str:
    """Return which parts are quantized: `all`, `all but b` or `a`, followed by parts of another method."""
    kept = [name for name, state in became.items() if state == FLOAT]
    quantized = [name for name, state in became.items() if state != FLOAT]
    if not kept:
        text = "all"
    elif others or len(kept) <= len(quantized):
        text = f"all but {', '.join(kept)}"
    else:
        text = ", ".join(quantized)
    otherwise = [name for name, state in became.items() if state not in (FLOAT, method)]
    return f"{text} ({DYNAMIC}: {', '.join(otherwise)})" if otherwise else text

"""A search over a network of layers named by letters, whose figures are given: every answer can be worked out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from quantexp.config import ByLayer, Experiment, Search, Static
from quantexp.reports.findings import Findings
from quantexp.results import Data, Evidence, Layer, Report
from quantexp.studies.search import study as search
from quantexp.system.errors import QuantexpError
from tests.builders import comparison, measured, report, speedup

EXAMPLES = 1000
BYTES = 1000  # of a layer in float; int8 takes a quarter
Figures = Callable[[str, frozenset[str], frozenset[str]], tuple[int, float]]


class Searched:
    """A search over a network of layers named by letters, every variant answered with the figures that are given.

    `figures` gives, for a method, its layers and those of them that are dynamic, the examples lost and the speedup.
    """

    def __init__(self, network: Sequence[str], figures: Figures, quant: ByLayer | None = None, **settings: Any) -> None:
        self.layers, self.figures = network, figures
        self.asked: list[Experiment] = []
        self.so_far: list[Findings] = []
        validated: dict[str, Any] = {"validation": 0.1, "evaluation": "validation", "batch_size": 1}
        experiment = Experiment(quant=quant or Static(), **validated)
        steps = search.find(
            Search(**settings), experiment, lambda made: f"make {made.quant.name} in {made.runtime.name}"
        )
        self.found = self._end(steps)

    def _end(self, steps: Any) -> Findings:
        answer: Any = None
        try:
            while True:
                yielded = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
                answer = self._answer(yielded)
        except StopIteration as end:
            found: Findings = end.value
            return found

    def _answer(self, yielded: Experiment | Findings) -> Report | Exception | None:
        if isinstance(yielded, Findings):
            self.so_far.append(yielded)
            return None
        self.asked.append(yielded)
        try:
            return self._report(yielded)
        except QuantexpError as error:
            return error

    def _report(self, experiment: Experiment) -> Report:
        quant = experiment.quant
        assert isinstance(quant, ByLayer)
        chosen = frozenset(one for one in self.layers if one in (quant.include or self.layers))
        lost, ratio = self.figures(quant.name, chosen, frozenset(getattr(quant, "dynamic", ())))
        held = tuple(Layer(one, "Linear", "int8" if one in chosen else "fp32", 8) for one in self.layers)
        plain = tuple(Layer(one, "Linear", "fp32", 32) for one in self.layers)
        data = data_of(experiment)
        size = sum(BYTES / 4 if one in chosen else BYTES for one in self.layers)
        return report(
            quant=quant.name,
            data=data,
            baseline=measured(
                weight_bytes={"fp32": BYTES * len(self.layers)}, evidence=Evidence(plain, (), ()), ms={1: 1}
            ),
            quantized=measured("int8", weight_bytes={"int8": round(size)}, evidence=Evidence(held, (), ()), ms={1: 1}),
            comparison=comparison(
                drop=lost / data.evaluated,
                flips_gained=max(0, -lost),
                flips_lost=max(0, lost),
                speedups=[speedup(1, ratio)],
                output_sqnr_db=30.0 - lost / 10,
            ),
        )

    @property
    def answer(self) -> tuple[str, str]:
        """What is quantized, and by which method, as the table says it."""
        name, method = self.found.table.rows[0][:2]
        assert name.startswith("answer: ")
        return name.removeprefix("answer: "), method.split(" ")[0]

    @property
    def notes(self) -> str:
        return "\n".join(self.found.table.notes)


def data_of(experiment: Experiment) -> Data:
    """The examples of a run."""
    return Data("full", "given", "d" * 64, 9000, 512, 500, EXAMPLES, experiment.evaluation)


def harms(**lost: int) -> Figures:
    """Each layer loses so many examples, and each is as much of the time: half of it is saved in int8."""

    def figures(method: str, chosen: frozenset[str], dynamic: frozenset[str]) -> tuple[int, float]:
        return sum(lost[one] for one in chosen), 1 / (1 - 0.5 * len(chosen) / len(lost))

    return figures

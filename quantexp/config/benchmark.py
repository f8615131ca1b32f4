"""How the models are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from quantexp.config.option import Option, option


class FloatModel(StrEnum):
    """A way to run the float model that quantized ones are compared with."""

    eager = "eager"
    compiled = "compiled"


@dataclass
class Benchmark(Option):
    """A protocol for timing the float and the quantized model in alternation, in one process."""

    group: ClassVar[str] = "benchmark"

    threads: int = option("CPU threads while measuring; set, checked and recorded", 1, at_least=1, at_most=1024)
    margin: float = option("smallest difference in latency worth naming, as a share", 0.01, above=0, at_most=1)
    baselines: list[FloatModel] = option(
        "float models to compare with: [eager] or [eager,compiled], which needs a C++ compiler", [FloatModel.eager]
    )
    memory: bool = option("also measure the peak memory of a fresh process that loads the model and predicts", False)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        names = [str(name) for name in self.baselines]
        if sorted(names) not in (["eager"], ["compiled", "eager"]):
            yield f"benchmark.baselines must be [eager] or [eager,compiled], got [{','.join(names)}]"


@dataclass
class Paired(Benchmark):
    """Fresh copies of all models, timed in alternation; the interval is taken over the copies.

    Two copies of one model differ by per cents from where their weights lie in memory, and no number
    of rounds averages that out: so each placement copies all models afresh. Placements are added until
    the interval of every comparison is narrow or the seconds are spent.
    """

    name: ClassVar[str] = "paired"

    placements: int = option("least times that the models are copied afresh", 10, at_least=2, at_most=1000)
    narrow: float = option("half-width at which an interval is narrow enough, as a share of the ratio", 0.01, above=0)
    seconds: float = option("time spent on each batch size at most", 2.0, above=0)
    calls: int = option("least calls in a timed block", 1, at_least=1, at_most=10000)


@dataclass
class Lab(Benchmark):
    """As the lab hand-out says: a few timed runs after one warm-up, mean ± standard deviation over calls."""

    name: ClassVar[str] = "lab"

    repeats: int = option("timed runs after the one warm-up", 5, at_least=2)

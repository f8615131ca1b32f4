"""How latency is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quantexp.config.option import Option, option


@dataclass
class Benchmark(Option):
    """A protocol for timing the float and the quantized model in alternation, in one process."""

    group: ClassVar[str] = "benchmark"

    threads: int = option("CPU threads while measuring; set, checked and recorded", 1, at_least=1, at_most=1024)


@dataclass
class Paired(Benchmark):
    """Fresh copies of both models, timed in alternation; the interval is taken over the copies.

    Two copies of one model differ by per cents from where their weights lie in memory, and no number
    of rounds averages that out: so each placement copies both models afresh.
    """

    name: ClassVar[str] = "paired"

    placements: int = option("times that both models are copied afresh", 10, at_least=2, at_most=1000)
    seconds: float = option("time spent on each batch size", 2.0, above=0)


@dataclass
class Lab(Benchmark):
    """As the lab hand-out says: a few timed runs after one warm-up, mean ± standard deviation over calls."""

    name: ClassVar[str] = "lab"

    repeats: int = option("timed runs after the one warm-up", 5, at_least=2)

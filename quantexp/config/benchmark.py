"""How the networks are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from quantexp.config.option import RESULT, Option, option
from quantexp.config.runtime import faults_of_names


@dataclass
class Benchmark(Option):
    """A protocol that times the float and the quantized network in turns, in one process."""

    group: ClassVar[str] = "benchmark"

    threads: int = option(
        "CPU threads while measuring; set, checked and recorded", 1, affects=RESULT, at_least=1, at_most=1024
    )
    margin: float = option(
        "smallest difference in latency worth naming, as a share", 0.01, affects=RESULT, above=0, at_most=1
    )
    runtimes: list[str] = option(
        "further runtimes that the networks are timed in, as [compiled,onnxruntime]", [], affects=RESULT
    )
    memory: bool = option(
        "also measure the peak memory of a new process that loads the network, or the runtime's file, and predicts",
        False,
        affects=RESULT,
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from faults_of_names("benchmark.runtimes", self.runtimes)


@dataclass
class Paired(Benchmark):
    """New copies of all networks, timed in turns; the interval is taken over the copies.

    Two copies of one network differ by a few percent, as their weights lie elsewhere in memory, and no number
    of rounds averages that out: so each placement copies all networks again. Placements are added until the interval of
    every comparison is narrow or the seconds are spent. While an interval decides nothing (faster, slower, or no
    difference beyond the margin), they are added for longer.
    """

    name: ClassVar[str] = "paired"

    placements: int = option(
        "minimum number of placements: times that the networks are copied again",
        10,
        affects=RESULT,
        at_least=2,
        at_most=1000,
    )
    narrow: float = option(
        "half-width of the interval at which measuring stops, as a share of the ratio", 0.01, affects=RESULT, above=0
    )
    seconds: float = option("time for each batch size", 2.0, affects=RESULT, above=0)
    extend: float = option(
        "how many times these seconds it may take while a comparison is undecided; 1 never extends them",
        4.0,
        affects=RESULT,
        at_least=1,
        at_most=1000,
    )
    calls: int = option("minimum number of calls in a timed block", 1, affects=RESULT, at_least=1, at_most=10000)


@dataclass
class Lab(Benchmark):
    """As many hand-outs measure it: a few timed calls after one warm-up, mean ± standard deviation over calls."""

    name: ClassVar[str] = "lab"

    repeats: int = option("timed calls after the one warm-up", 5, affects=RESULT, at_least=2)

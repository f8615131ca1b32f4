"""The cells of the conformance suite: every network through every method, flow and precision, with all self-checks.

A cell works if its network was quantized and passed all checks without a finding, and is refused if the run ended in an
error of quantexp. A traceback, a crash or a timeout is a failure.
"""

from __future__ import annotations

import logging
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from quantexp.config import (
    METHODS,
    ByLayer,
    CustomModel,
    CustomTask,
    DataSource,
    Experiment,
    FakeQuant,
    Mnist,
    Quant,
    Static,
    Task,
    Train,
)
from quantexp.mission import attempt
from quantexp.system.errors import CheckError, QuantexpError
from tests.conformance.networks import NETWORKS
from tests.conformance.networks.built import SIDE

EXAMPLES = 64  # for calibration
LEFT_OUT = {"fp32", "int4"}  # nothing is quantized; wants layers with inputs in groups of 32


class Outcome(StrEnum):
    """How a cell ends; the last three are failures."""

    works = "works"
    found = "found"  # quantized, but a self-check has a finding
    refused = "refused"
    wrong = "wrong"  # refused, because a self-check failed
    traceback = "traceback"
    crash = "crash"
    timeout = "timeout"


FAILURES = (Outcome.traceback, Outcome.crash, Outcome.timeout)


@dataclass(frozen=True)
class Column:
    """A method with its flow and precision."""

    method: str
    flow: str | None
    precision: str

    def __str__(self) -> str:
        parts = (self.method, self.flow, self.precision if self.method in ("none", "amp", "dynamic") else None)
        return " ".join(part for part in parts if part)

    @property
    def option(self) -> Quant:
        """The options of the method."""
        kind = next(method for method in METHODS if method.name == self.method)
        settings: dict[str, Any] = {"flow": self.flow} if self.flow else {}
        if issubclass(kind, Static | FakeQuant):
            settings["calibration_examples"] = EXAMPLES
        return kind(**settings)


@dataclass(frozen=True)
class Cell:
    """A network and what is tried with it."""

    network: str
    column: Column

    def __str__(self) -> str:
        return f"{self.network} {self.column}"


@dataclass(frozen=True)
class Result:
    """What became of a cell: `reason` is why it does not work, `share` that of the MACs that ran in its precision.

    `check` names the self-check that failed, or that has a finding.
    """

    cell: str
    outcome: Outcome
    reason: str = ""
    check: str = ""
    share: float | None = None
    sqnr_db: float | None = None
    seconds: float = 0.0

    @property
    def short(self) -> str:
        """The reason in one line: of a traceback its last."""
        lines = self.reason.strip().splitlines()
        return "" if not lines else lines[-1] if self.outcome is Outcome.traceback else " ".join(lines)


def columns() -> Iterator[Column]:
    """Yield every method with every flow that it has, and the precisions that are no matter of layers' widths."""
    for method in METHODS:
        if issubclass(method, ByLayer):
            pairs = [(flow.value, precision) for flow, names in method.portable_flows().items() for precision in names]
        else:
            pairs = [(None, precision) for precision in method.precisions]
        yield from (Column(method.name, *pair) for pair in pairs if pair[1] not in LEFT_OUT)


def cells() -> list[Cell]:
    """Return all cells, those of a network beside each other."""
    return part(1, 1)


def part(number: int, of: int) -> list[Cell]:
    """Return one of `of` parts of the cells, numbered from 1; up to as many as there are methods, each has them all."""
    return [
        Cell(network, column)
        for row, network in enumerate(NETWORKS)
        for place, column in enumerate(columns())
        if (row + place) % of == number - 1
    ]


def experiment(cell: Cell, cache: str) -> Experiment:
    """Return the experiment of a cell: random inputs, or a short training on few examples if the method trains."""
    network, quant = NETWORKS[cell.network], cell.column.option
    tokens = getattr(network, "takes", ()) == ("tokens",)
    task: Task = CustomTask(target="tests.tokens.Sentences") if tokens else Mnist(crop=SIDE)
    labelled = DataSource.full if tokens else DataSource.sample
    return Experiment(
        task=task,
        model=CustomModel(target=f"{network.__module__}.{network.__name__}"),
        quant=quant,
        precision=cell.column.precision,
        data=labelled if quant.trains else DataSource.synthetic,
        train=Train(epochs=1, batch_size=200, threads=1),
        batch_size=[1, 8],
        cache_dir=cache,
    )


def outcome(cell: Cell, cache: str, *, advise: bool = True) -> Result:
    """Run a cell in this process; with `advise` a refusal says what works instead, which takes longer to find out."""
    started = time.monotonic()
    try:
        result = _tried(experiment(cell, cache), str(cell), advise)
    except CheckError as error:
        result = Result(str(cell), Outcome.wrong, str(error), error.check)
    except QuantexpError as error:
        result = Result(str(cell), Outcome.refused, str(error))
    except Exception:  # a failure of the suite, which is to be recorded like all others
        result = Result(str(cell), Outcome.traceback, traceback.format_exc())
    return replace(result, seconds=round(time.monotonic() - started, 2))


def _tried(asked: Experiment, name: str, advise: bool) -> Result:
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = attempt(asked, advise=advise)
    finally:
        logging.disable(logging.NOTSET)
    share = made.evidence.mac_share(str(asked.precision))
    ended = Outcome.found if made.findings else Outcome.works
    checks = ", ".join(dict.fromkeys(finding.check for finding in made.findings))
    reason = "; ".join(finding.text for finding in made.findings)
    return Result(name, ended, reason, checks, share, made.output_sqnr_db)

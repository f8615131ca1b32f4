"""What the message of a refusal advises to use instead, as cells of the suite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.conformance.cells import Cell, Column, Outcome, columns
from tests.conformance.table import Row

ADVICE = re.compile(r"\buse (?P<advice>.*)", re.DOTALL)
METHOD = re.compile(r"quant=(\w+)(?:,?(?: in| with)? quant\.flow=(\w+))?(?: (?:with )?precision=(\w+))?")
FLOW = re.compile(r"quant\.flow=(\w+(?:(?:, | or |, or )(?:fx|eager|pt2e|torchao)\b)*)")


@dataclass(frozen=True)
class Advice:
    """Something that a message advises: one of these columns; those of all flows if it names none."""

    text: str
    columns: tuple[Column, ...]


def advised(message: str, column: Column) -> Iterator[Advice]:
    """Yield each method and flow that a message advises; values of other settings are no column."""
    found = ADVICE.search(message)
    text = found["advice"] if found else ""
    for match in METHOD.finditer(text):
        method, flow, precision = match.groups()
        yield Advice(match[0], tuple(_columns(method, flow, precision or column.precision)))
    for match in FLOW.finditer(METHOD.sub("", text)):
        for flow in re.findall(r"fx|eager|pt2e|torchao", match[1]):
            yield Advice(f"quant.flow={flow}", tuple(_columns(column.method, flow, column.precision)))


def false_advice(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the cells whose message advises what is refused, or does not exist."""
    by_cell = {row.cell: row for row in rows}
    for row in by_cell.values():
        if row.outcome is Outcome.works:
            continue
        for advice in advised(row.reason, row.cell.column):
            ends = [by_cell[Cell(row.cell.network, column)].outcome for column in advice.columns]
            if not any(end in (Outcome.works, Outcome.found) for end in ends):
                yield f"{row.cell}: {advice.text} is {', '.join(ends) or 'not a method'}"


def _columns(method: str, flow: str | None, precision: str) -> Iterator[Column]:
    """Yield the columns of a method: of all flows if none is given, of its default where it lacks the precision."""
    own = [column for column in columns() if column.method == method and flow in (None, column.flow)]
    same = [column for column in own if column.precision == precision]
    yield from same or own

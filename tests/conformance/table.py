"""The results of all cells as the files of the docs: a line for each cell, and a page with a row for each network."""

from __future__ import annotations

import csv
import inspect
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantexp.results.text import share_text
from quantexp.system.environment import describe
from tests.conformance.cells import FAILURES, Cell, Column, Outcome, Result, cells, columns
from tests.conformance.named import is_named
from tests.conformance.networks import FAMILIES, NETWORKS
from tests.conformance.networks.built import built

ROOT = Path(__file__).resolve().parents[2]
ROWS, PAGE = ROOT / "docs" / "tables" / "conformance.csv", ROOT / "docs" / "conformance.md"
FAILED = Path(__file__).with_name("failed.txt")
FIELDS = ("network", "method", "flow", "precision", "outcome", "mac_share", "output_sqnr_db", "named", "reason")
SHORT = 600  # characters of a reason


@dataclass(frozen=True)
class Row:
    """A line of the table: what became of a cell; `named` if the method names all layers of the network."""

    cell: Cell
    outcome: Outcome
    share: float | None
    sqnr_db: float | None
    named: bool
    reason: str


def failed() -> list[str]:
    """Return the cells that ever failed."""
    return [line for line in FAILED.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def note_failures(results: Iterable[Result]) -> None:
    """Add the cells that failed to those that ever did."""
    found = {result.cell for result in results if result.outcome in FAILURES} - set(failed())
    if found:
        with FAILED.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in sorted(found))


def write(results: Sequence[Result], seconds: float) -> None:
    """Write the files of the docs. `results` has all cells, in any order."""
    by_cell = {result.cell: result for result in results}
    rows = [_row(cell, by_cell[str(cell)]) for cell in cells()]
    with ROWS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(_cells_of(row) for row in rows)
    PAGE.write_text(page(rows, seconds), encoding="utf-8")


def read() -> list[Row]:
    """Return the rows of the docs."""
    with ROWS.open(encoding="utf-8", newline="") as file:
        return [_parsed(line) for line in csv.DictReader(file)]


def works_among_named(rows: Iterable[Row]) -> tuple[int, int]:
    """Return how many cells of networks whose layers the method names work, and how many there are."""
    named = [row for row in rows if row.named]
    return sum(row.outcome is Outcome.works for row in named), len(named)


def _row(cell: Cell, result: Result) -> Row:
    reason = re.sub(r"0x[0-9a-f]{6,}", "0x...", result.short).replace(os.fspath(ROOT), "")
    if result.outcome is Outcome.wrong:
        reason = f"check failed ({result.check}): {reason}"
    short = reason if len(reason) <= SHORT else f"{reason[: SHORT // 2]} ... {reason[-SHORT // 2 :]}"
    return Row(cell, result.outcome, result.share, result.sqnr_db, is_named(cell.column, built(cell.network)), short)


def _cells_of(row: Row) -> list[str]:
    share, sqnr = (
        "" if number is None else f"{number:{form}}" for number, form in ((row.share, ".4f"), (row.sqnr_db, ".1f"))
    )
    column = row.cell.column
    place = [row.cell.network, column.method, column.flow or "", column.precision]
    return [*place, row.outcome.value, share, sqnr, "yes" if row.named else "no", row.reason]


def _parsed(line: Mapping[str, str]) -> Row:
    numbers = (float(line[name]) if line[name] else None for name in ("mac_share", "output_sqnr_db"))
    cell = Cell(line["network"], Column(line["method"], line["flow"] or None, line["precision"]))
    return Row(cell, Outcome(line["outcome"]), *numbers, line["named"] == "yes", line["reason"])


def page(rows: Sequence[Row], seconds: float) -> str:
    """Return the page: totals for each method, and for each network what works, with the share of its MACs."""
    counts = Counter(row.outcome for row in rows)
    right, of = works_among_named(rows)
    refused, wrong = counts[Outcome.refused], counts[Outcome.wrong]
    failures = sum(counts[outcome] for outcome in FAILURES)
    return "\n".join(
        [
            "# What works for which network",
            "",
            "    scripts/conformance",
            "",
            f"This command tries {len(NETWORKS)} small networks, one feature each, with every method in every flow:",
            f"{len(rows):,} cells. Each cell quantizes the network and makes all self-checks of a run",
            "([checks.md](checks.md)). To try your own network: `python -m quantexp study=compatibility",
            "model=custom model.target=package.module.Class` ([studies.md](studies.md)).",
            "",
            f"- **{counts[Outcome.works]:,} cells work**: the network is quantized, and all checks pass.",
            f"- **{counts[Outcome.found]:,} have a finding**: the network is quantized, but random, or far from float.",
            f"- **{refused:,} are refused**, with the reason and, where there is one, what to use instead.",
            f"- **{wrong:,} end in a failed check**: torch computes something else there, and the run says so.",
            f"- **{failures:,} fail**: with an internal error, a crash or a timeout.",
            f"- Of the {of:,} cells of networks that are built only from layers which the method names as supported,",
            f"  **{right:,} work ({100 * right / max(of, 1):.0f} %)**.",
            "",
            f"Machine: {describe().summary}; all cells took {seconds / 60:.0f} minutes. The reasons are in",
            "[tables/conformance.csv](tables/conformance.csv).",
            "",
            "## Methods",
            "",
            "Named: cells of networks whose layers with parameters are all of kinds that the method names.",
            "",
            *_methods(rows),
            "",
            "## Networks",
            "",
            "A number is the share of the network's MACs, in percent, that ran in the precision of the method. `?`:",
            "not given, as some operators cannot be counted; `!`: a check has a finding; `-`: refused; `x`: a check",
            "failed; `FAIL`: an internal error. `weight_only` and `fake_quant` compute in float.",
            *_networks(rows),
            "",
        ]
    )


def _methods(rows: Sequence[Row]) -> Iterator[str]:
    yield "| method | works | finding | refused | check failed | failed | named: works |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for column in columns():
        own = [row for row in rows if row.cell.column == column]
        counts, (right, of) = Counter(row.outcome for row in own), works_among_named(own)
        failures = sum(counts[outcome] for outcome in FAILURES)
        named = f"{right} of {of}" if of else ""
        yield (
            f"| {column} | {counts[Outcome.works]} | {counts[Outcome.found]} | {counts[Outcome.refused]} "
            f"| {counts[Outcome.wrong]} | {failures} | {named} |"
        )


def _networks(rows: Sequence[Row]) -> Iterator[str]:
    found = {(row.cell.network, row.cell.column): row for row in rows}
    for family in FAMILIES:
        yield from ("", f"### {family.__name__.rpartition('.')[2].capitalize()}", "")
        yield "| network | " + " | ".join(str(column) for column in columns()) + " |"
        yield "| --- |" + " ---: |" * len(list(columns()))
        for name, network in NETWORKS.items():
            if network.__module__ == family.__name__:
                marks = (_mark(found[name, column]) for column in columns())
                yield f"| {name}: {described(name)} | " + " | ".join(marks) + " |"


def described(network: str) -> str:
    """Return the feature of a network: the first line of its docstring."""
    return (inspect.getdoc(NETWORKS[network]) or "").partition("\n")[0].removesuffix(".")


def _mark(row: Row) -> str:
    if row.outcome in (Outcome.works, Outcome.found):
        computes = row.cell.column.method not in ("weight_only", "fake_quant")
        share = "yes" if not computes else "?" if row.share is None else share_text(row.share)[:-1]
        return share if row.outcome is Outcome.works else f"{share}!"
    return {Outcome.refused: "-", Outcome.wrong: "x"}.get(row.outcome, "FAIL")

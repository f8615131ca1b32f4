"""The table of the study `compatibility`: by method, what works first; and advice on what to run next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple

from quantexp.config import METHODS, DataSource, Eager, Engine
from quantexp.reports.cells import known
from quantexp.reports.findings import Findings
from quantexp.reports.notes import SIMULATED
from quantexp.reports.table import Table
from quantexp.results.compatibility import COMPATIBILITY_FILE, Cell, CompatibilityReport, Outcome, Row, Word
from quantexp.results.text import listed, share_text, size_text

LONGEST = 300  # characters of a reason below the table
WORDS = tuple(Word)
TRAINED = {method.name for method in METHODS if method.trains}
LEARNING = {*TRAINED, "amp"}  # what trains where there are labels
RANDOM = "random"  # weights
EQUAL_SHARES = 2  # decimals
RUNTIME = 4  # the column


def best(rows: Sequence[Row]) -> Cell | None:
    """Return the cell that is worth running first; None if nothing works.

    It is the one with the most multiply-accumulates in int8; of equal ones, one that trains nothing, then one in a
    runtime that was named earlier, then another engine than qnnpack, whose kernels are made for ARM, then the one whose
    outputs are closest to float. If nothing runs in int8, it is the smallest network.
    """
    working = [row for row in rows if row.outcome.works and row.cell.precision != SIMULATED]
    runtimes = list(dict.fromkeys(row.cell.runtime for row in rows))
    if found := [row for row in working if row.cell.precision == "int8" and row.outcome.mac_share]:
        return max(found, key=lambda row: _rank(row, runtimes)).cell
    smaller = [row for row in working if row.cell.precision != "fp32"]
    return min(smaller, key=lambda row: row.outcome.size_mb or 0.0).cell if smaller else None


def _rank(row: Row, runtimes: Sequence[str]) -> tuple[float, bool, int, bool, float]:
    cell, outcome = row.cell, row.outcome
    closeness = float("inf") if outcome.output_sqnr_db is None else outcome.output_sqnr_db
    share = round(outcome.mac_share or 0.0, EQUAL_SHARES)
    place = -runtimes.index(cell.runtime)
    return share, cell.method not in TRAINED, place, cell.engine != Engine.qnnpack, closeness


def findings(report: CompatibilityReport) -> Findings:
    """Return the findings as they are shown and recorded."""
    counts = Counter(row.outcome.word.value for row in report.rows)
    metrics = {word.value: float(counts[word.value]) for word in Word}
    return Findings(metrics, table(report), {"rows": lines(report)}, {}, {COMPATIBILITY_FILE: report.to_json()})


def table(report: CompatibilityReport) -> Table:
    """Return the table: the methods in their order, in each what works first, and engines with equal rows together.

    Rows in another runtime than eager say so.
    """
    columns = (report.network, "flow", "dtype", "engine", "runtime", "Result", "MACs\n(%)", "Size\n(MB)", "SQNR\n(dB)")
    reasons = _reasons(report)
    methods = list(dict.fromkeys(row.cell.method for row in report.rows))
    tried = Counter(_without_engine(row.cell) for row in report.rows)
    merged: dict[tuple[str, ...], list[str]] = {}
    for row in sorted(report.rows, key=lambda row: (methods.index(row.cell.method), WORDS.index(row.outcome.word))):
        cell = row.cell
        key = (*_without_engine(cell), _result(row, reasons), *_figures(row))
        merged.setdefault(key, []).append(cell.engine or "")
    shown, before = [], ""
    for (method, flow, precision, runtime, *rest), engines in merged.items():
        every = len(engines) > 1 and len(engines) == tried[method, flow, precision, runtime]
        shown.append(
            (
                method if method != before else "",
                flow,
                precision,
                "all" if every else ", ".join(engines),
                runtime,
                *rest,
            )
        )
        before = method
    found = Table(columns, tuple(shown), tuple(_notes(report, reasons)))
    return found if any(row[RUNTIME] != Eager.name for row in shown) else found.without(RUNTIME)


def lines(report: CompatibilityReport) -> list[Sequence[object]]:
    """Return every row as a line of a CSV file."""
    names = ("result", "check", "mac_share", "size_mb", "output_sqnr_db", "seconds", "reason", "findings")
    header: list[Sequence[object]] = [("method", "flow", "precision", "engine", "runtime", *names)]
    for row in report.rows:
        out = row.outcome
        figures = ("" if value is None else value for value in (out.mac_share, out.size_mb, out.output_sqnr_db))
        found = "; ".join(out.findings)
        cell = ("" if part is None else part for part in astuple(row.cell))
        header.append((*cell, out.word.value, out.check or "", *figures, round(out.seconds, 2), out.reason, found))
    return header


def _without_engine(cell: Cell) -> tuple[str, str, str, str]:
    return cell.method, cell.flow or "", cell.precision, cell.runtime


def _reasons(report: CompatibilityReport) -> list[str]:
    """Return the reasons why rows do not work, each once; the table names them by their position, from 1 on."""
    found = (_reason(row.outcome) for row in report.rows if not row.outcome.works)
    return list(dict.fromkeys(found))


def _reason(outcome: Outcome) -> str:
    """Return the reason in a short line, with the self-check that failed."""
    text = " ".join(outcome.reason.split())
    short = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return f"self-check {outcome.check}: {short}" if outcome.check else short


def _result(row: Row, reasons: Sequence[str]) -> str:
    """Return the result: `works`, `works*` with findings, `refused[1]`."""
    out = row.outcome
    if out.works:
        return f"works{'*' * bool(out.findings)}"
    return f"{out.word}[{reasons.index(_reason(out)) + 1}]"


def _figures(row: Row) -> tuple[str, str, str]:
    """Return share, size and SQNR, empty where they are not known."""
    out = row.outcome
    share = "" if out.mac_share is None or row.cell.precision == SIMULATED else share_text(out.mac_share)[:-1]
    size = "" if out.size_mb is None else size_text(out.size_mb)
    return share, size, known(out.output_sqnr_db, 1)


def _notes(report: CompatibilityReport, reasons: Sequence[str]) -> Iterator[str]:
    yield advice(report)
    yield from (f"[{number}] {reason}" for number, reason in enumerate(reasons, 1))
    working = [row for row in report.rows if row.outcome.works]
    if found := list(dict.fromkeys(text for row in working for text in row.outcome.findings)):
        yield f"* FINDING of a self-check: {found[0]}{f'; {len(found) - 1} more in rows.csv' if found[1:] else ''}."
    if any(row.outcome.weights == RANDOM for row in report.rows):
        yield "Untrained: the weights are random; SQNR may differ from that of the trained network."
    yield (
        "MACs: share of the multiply-accumulates that ran in the dtype of the row, empty if unknown. "
        "SQNR: energy of float's outputs over the error's."
    )
    if report.source != DataSource.synthetic and any(row.cell.method in LEARNING for row in working):
        yield "qat and amp: trained for a few steps that hardly change the weights."
    if len({row.cell.runtime for row in report.rows}) > 1:
        yield "In each runtime, only methods and flows are tried that it executes at all."
    yield "rows.csv has every row, with the whole reason."


def advice(report: CompatibilityReport) -> str:
    """Return which command to run next: its row was tried."""
    counts = Counter(row.outcome.word for row in report.rows)
    summary = listed([f"{counts[word]} {_counted(word, counts[word])}" for word in Word if counts[word]])
    if report.best is None or report.command is None:
        return f"{summary}. Nothing quantized works for this network."
    outcome = next(row.outcome for row in report.rows if row.cell == report.best)
    if report.best.precision == "int8" and outcome.mac_share:
        what = f"{share_text(outcome.mac_share)} of the multiply-accumulates in int8, the most of what works"
    else:
        what = "nothing runs in int8, this is the smallest network that works"
    return f"{summary}. Run next ({report.best}: {what}): {report.command}"


def _counted(word: Word, count: int) -> str:
    plural = {Word.works: "work", Word.crashed: "crashed", Word.timeout: "timed out"}
    return plural.get(word, word.value) if count != 1 or word is Word.timeout else word.value

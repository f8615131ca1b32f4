"""The table of the study `compatibility`: by method, what works first; and advice on what to run next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple

from quantexp.config import METHODS
from quantexp.reports.cells import known
from quantexp.reports.findings import Findings
from quantexp.reports.table import Table
from quantexp.results.compatibility import Cell, CompatibilityReport, Outcome, Row, Word
from quantexp.results.text import listed, size_text

REPORT = "compatibility.json"
LONGEST = 110  # characters of a reason in the table
TRAINED = {method.name for method in METHODS if method.trains}
RANDOM = "random"
EQUAL_SHARES = 2  # decimals


def best(rows: Sequence[Row]) -> Cell | None:
    """Return the cell that is worth running first; None if nothing works.

    It is the one with the most multiply-accumulates in int8; of equal ones, one that trains nothing, then the one whose
    outputs are closest to float. If nothing runs in int8, it is the smallest network.
    """
    working = [row for row in rows if row.outcome.works and row.cell.precision != "simulated"]
    if found := [row for row in working if row.cell.precision == "int8" and row.outcome.mac_share]:
        return max(found, key=_rank).cell
    smaller = [row for row in working if row.cell.precision != "fp32"]
    return min(smaller, key=lambda row: row.outcome.size_mb or 0.0).cell if smaller else None


def _rank(row: Row) -> tuple[float, bool, float]:
    outcome = row.outcome
    closeness = float("inf") if outcome.output_sqnr_db is None else outcome.output_sqnr_db
    return round(outcome.mac_share or 0.0, EQUAL_SHARES), row.cell.method not in TRAINED, closeness


def findings(report: CompatibilityReport) -> Findings:
    """Return the findings as they are shown and recorded."""
    counts = Counter(row.outcome.word.value for row in report.rows)
    metrics = {word.value: float(counts[word.value]) for word in Word}
    return Findings(metrics, table(report), {"rows": lines(report)}, {}, {REPORT: report.to_json()})


def table(report: CompatibilityReport) -> Table:
    """Return the table: the methods in their order, in each what works first, and engines with equal rows together."""
    columns = (report.network, "flow", "dtype", "engine", "Result", "MACs\n(%)", "Size\n(MB)", "SQNR\n(dB)")
    words = list(Word)
    order = {row.cell.method: at for at, row in reversed(list(enumerate(report.rows)))}
    rows = sorted(report.rows, key=lambda row: (order[row.cell.method], words.index(row.outcome.word)))
    merged: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        cell, figures = row.cell, _figures(row)
        key = (cell.method, cell.flow or "", cell.precision, *figures)
        merged.setdefault(key, []).append(cell.engine or "")
    shown, before = [], ""
    for (method, flow, precision, *rest), engines in merged.items():
        shown.append((method if method != before else "", flow, precision, ", ".join(engines), *rest))
        before = method
    return Table(columns, tuple(shown), tuple(_notes(report)))


def lines(report: CompatibilityReport) -> list[Sequence[object]]:
    """Return every row as a line of a CSV file."""
    names = ("result", "check", "mac_share", "size_mb", "output_sqnr_db", "seconds", "reason", "findings")
    header: list[Sequence[object]] = [("method", "flow", "precision", "engine", *names)]
    for row in report.rows:
        out = row.outcome
        figures = ("" if value is None else value for value in (out.mac_share, out.size_mb, out.output_sqnr_db))
        found = "; ".join(out.findings)
        cell = ("" if part is None else part for part in astuple(row.cell))
        header.append((*cell, out.word.value, out.check or "", *figures, round(out.seconds, 2), out.reason, found))
    return header


def _figures(row: Row) -> tuple[str, str, str, str]:
    """Return the result in words, and share, size and SQNR of what works."""
    out = row.outcome
    if not out.works:
        return _result(out), "", "", ""
    share = "" if out.mac_share is None or row.cell.precision == "simulated" else f"{100 * out.mac_share:.0f}"
    size = "" if out.size_mb is None else size_text(out.size_mb)
    return f"works{'*' * bool(out.findings)}", share, size, known(out.output_sqnr_db, 1)


def _result(outcome: Outcome) -> str:
    """Return why a cell does not work, in a short line; tables and CSV have the whole reason."""
    word = f"{outcome.word} ({outcome.check})" if outcome.check else outcome.word.value
    text = " ".join(outcome.reason.split())
    return f"{word}: {text if len(text) <= LONGEST else f'{text[: LONGEST - 3]}...'}"


def _notes(report: CompatibilityReport) -> Iterator[str]:
    yield advice(report)
    if any(row.outcome.weights == RANDOM for row in report.rows):
        yield "untrained weights: random ones, so that SQNR can differ from that of the trained network."
    yield "MACs: multiply-accumulates in the dtype of the row. SQNR: energy of float's outputs over the error's."
    if any(row.cell.method in TRAINED | {"amp"} and row.outcome.works for row in report.rows):
        yield "qat and amp were trained for a few steps only, with hardly any change of the weights."
    if found := sorted({text for row in report.rows if row.outcome.works for text in row.outcome.findings}):
        yield f"* FINDING of a self-check: {found[0]}{f'; and {len(found) - 1} more' if len(found) > 1 else ''}."
    long = any(len(row.outcome.reason) > LONGEST for row in report.rows)
    yield f"rows.csv has every row{' with its whole reason' if long else ''}."


def advice(report: CompatibilityReport) -> str:
    """Return which command to run next: its row was tried."""
    counts = Counter(row.outcome.word for row in report.rows)
    summary = listed([f"{counts[word]} {_counted(word, counts[word])}" for word in Word if counts[word]])
    if report.best is None or report.command is None:
        return f"{summary}. Nothing quantized works for this network."
    outcome = next(row.outcome for row in report.rows if row.cell == report.best)
    if report.best.precision == "int8" and outcome.mac_share:
        what = f"{100 * outcome.mac_share:.0f} % of the multiply-accumulates in int8, the most of what works"
    else:
        what = "nothing runs in int8, this is the smallest network that works"
    return f"{summary}. Run next ({report.best}: {what}): {report.command}"


def _counted(word: Word, count: int) -> str:
    plural = {Word.works: "work", Word.crashed: "crashed", Word.timeout: "timed out"}
    return plural.get(word, word.value) if count != 1 or word is Word.timeout else word.value

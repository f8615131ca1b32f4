"""The report of a sweep, or of a study, as files: tables, pictures, Markdown, and one self-contained HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from quantexp.analysis.recommendation import recommend
from quantexp.reports.findings import Findings
from quantexp.reports.flows import flows_table
from quantexp.reports.html import (
    faults_html,
    faults_markdown,
    page_html,
    pictures_html,
    pictures_markdown,
    table_html,
    write_files,
)
from quantexp.reports.networks import network_tables, unsupported_table
from quantexp.reports.runtimes_table import runtimes_table, verdicts_table
from quantexp.reports.sweep_csv import full_csv, sweep_csv
from quantexp.reports.sweep_plots import Picture, drawn
from quantexp.reports.sweep_table import full_table, leading_table, seeds_table, summary_table
from quantexp.reports.table import Table, plain
from quantexp.results.sweep import Entry, SweepResult

PAGE = "report.html"
SUMMARY, ALL = "Summary", "All runs"
MOST_TABLES = 12  # of networks; networks.md has those of all


def write(sweep: SweepResult, folder: Path) -> Path:
    """Write the report into `folder`; return the path of the HTML page.

        table.md, table.csv   the summary
        networks.md           every method on each network, and unsupported combinations; only if there are any
        full.md, full.csv     all runs with intervals, verdicts and notes; every figure by its public name
        report.md             the whole report, with links to the pictures
        report.html           the same with embedded pictures
        pictures/             PNG

    Raises:
        QuantexpError: If the folder cannot be written.
    """
    pictures, found = drawn(sweep), list(tables(sweep))
    by_title = dict(found)
    texts = {
        "table.md": by_title[SUMMARY].markdown(),
        "table.csv": sweep_csv(sweep),
        "networks.md": _networks(sweep),
        "full.md": by_title[ALL].markdown(),
        "full.csv": full_csv(sweep),
        "report.md": markdown(sweep, pictures, found),
        PAGE: html(sweep, pictures, found),
    }
    write_files(folder, texts, {picture.file: picture.png for picture in pictures})
    return folder / PAGE


def write_study(title: str, found: Findings, folder: Path) -> Path:
    """Write the report of a study into a folder; return its page. Raises QuantexpError if that is not possible."""
    files = {f"{name}.csv": _csv(lines) for name, lines in found.lines.items()}
    page = page_html(f"Study {title}", ["".join(table_html("Results", found.table))])
    report = f"# Study {plain(title)}\n\n{found.table.markdown()}"
    write_files(
        folder, {"table.md": found.table.markdown(), "report.md": report, PAGE: page, **files, **found.texts}, {}
    )
    return folder / PAGE


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue()


def markdown(sweep: SweepResult, pictures: list[Picture], found: Sequence[tuple[str, Table]]) -> str:
    """Return the report as Markdown, with the tables that were found, and links to the pictures."""
    parts = [f"# Sweep {plain(sweep.name)}", f"    {' '.join(sweep.command.split())}"]
    parts += ["## Recommendation", *(plain(text) for text in recommend(sweep).split("\n\n"))]
    parts += [f"## {title}\n\n{table.markdown().strip()}" for title, table in found]
    parts += pictures_markdown(pictures)
    for title, faults in _faults(sweep):
        parts += faults_markdown(title, faults)
    return "\n\n".join(parts) + "\n"


def html(sweep: SweepResult, pictures: list[Picture], found: Sequence[tuple[str, Table]]) -> str:
    """Return the report as one page with the tables that were found, and embedded pictures."""
    return page_html(
        f"Sweep {sweep.name}", [f"<p><code>{escape(sweep.command)}</code></p>", *_sections(sweep, pictures, found)]
    )


def tables(sweep: SweepResult) -> Iterator[tuple[str, Table]]:
    """Yield the tables with their titles, the summary first, or what leads in it if it is long."""
    if leading := leading_table(sweep):
        yield "Leading runs", leading
    yield SUMMARY, summary_table(sweep)
    yield from _of_networks(sweep, MOST_TABLES)
    if seeds := seeds_table(sweep):
        yield "Methods compared over seeds", seeds
    yield ALL, full_table(sweep)


def _sections(sweep: SweepResult, pictures: list[Picture], found: Sequence[tuple[str, Table]]) -> Iterator[str]:
    first = 1 + [title for title, _ in found].index(SUMMARY)
    yield "<h2>Recommendation</h2>"
    yield from (f"<p>{escape(text)}</p>" for text in recommend(sweep).split("\n\n"))
    for title, table in found[:first]:
        yield from table_html(title, table)
    yield from pictures_html(pictures)
    for title, table in found[first:]:
        yield from table_html(title, table)
    for title, faults in _faults(sweep):
        yield from faults_html(title, faults)


def _faults(sweep: SweepResult) -> tuple[tuple[str, list[tuple[str, str]]], ...]:
    """Return what failed and what cannot be read, by the title of its section."""
    failed = [(entry.name, _error(entry)) for entry in sweep.failed]
    return ("Failed runs", failed), ("Not readable", [(one.name, one.reason) for one in sweep.unreadable])


def _of_networks(sweep: SweepResult, most: int | None = None) -> Iterator[tuple[str, Table]]:
    if verdicts := verdicts_table(sweep):
        yield "Fastest runtimes", verdicts
    if runtimes := runtimes_table(sweep):
        yield "Runtimes", runtimes
    yield from network_tables(sweep, most)
    if flows := flows_table(sweep):
        yield "Flows without torch.ao", flows
    if unsupported := unsupported_table(sweep):
        yield "Unsupported combinations", unsupported


def _networks(sweep: SweepResult) -> str:
    return "\n".join(f"## {plain(title)}\n\n{table.markdown()}" for title, table in _of_networks(sweep))


def _error(entry: Entry) -> str:
    return entry.error or "no result was recorded"

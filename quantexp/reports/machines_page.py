"""Machines side by side as files: tables, pictures, Markdown, and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quantexp.analysis.machines import SideBySide
from quantexp.reports.html import (
    faults_html,
    faults_markdown,
    page_html,
    pictures_html,
    pictures_markdown,
    table_html,
    write_files,
)
from quantexp.reports.machines_csv import experiments_csv, machines_csv
from quantexp.reports.machines_plot import machine_pictures
from quantexp.reports.machines_table import differences_table, hardware_table, machines_table
from quantexp.reports.page import PAGE
from quantexp.reports.sweep_csv import full_csv
from quantexp.reports.sweep_plots import Picture
from quantexp.reports.table import Table, plain
from quantexp.results.text import listed

MOST_NAMED = 6  # machines in a title


def write_machines(compared: SideBySide, folder: Path) -> Path:
    """Write the report into `folder`; return the path of the HTML page.

        table.md, table.csv   the experiments on each machine
        machines.csv          every property of each machine
        full.csv              every figure of every run by its public name
        report.md             the whole report, with links to the pictures
        report.html           the same with embedded pictures
        pictures/             PNG

    Raises:
        QuantexpError: If the folder cannot be written.
    """
    pictures = machine_pictures(compared)
    texts = {
        "table.md": machines_table(compared).markdown(),
        "table.csv": experiments_csv(compared),
        "machines.csv": machines_csv(compared),
        "full.csv": full_csv(compared.sweep),
        "report.md": _markdown(compared, pictures),
        PAGE: page_html(_title(compared), _sections(compared, pictures)),
    }
    write_files(folder, texts, {picture.file: picture.png for picture in pictures})
    return folder / PAGE


def _title(compared: SideBySide) -> str:
    return f"Machines side by side: {listed([machine.name for machine in compared.machines], MOST_NAMED)}"


def _tables(compared: SideBySide) -> Iterator[tuple[str, Table]]:
    yield "Experiments", machines_table(compared)
    yield "Machines", hardware_table(compared)
    yield "What differs", differences_table(compared)


def _markdown(compared: SideBySide, pictures: list[Picture]) -> str:
    parts = [f"# {plain(_title(compared))}"]
    parts += [f"## {title}\n\n{table.markdown().strip()}" for title, table in _tables(compared)]
    parts += pictures_markdown(pictures)
    parts += faults_markdown("Not readable", [(entry.name, entry.reason) for entry in compared.unreadable])
    return "\n\n".join(parts) + "\n"


def _sections(compared: SideBySide, pictures: list[Picture]) -> Iterator[str]:
    experiments, *others = _tables(compared)
    yield from table_html(*experiments)
    yield from pictures_html(pictures)
    for title, table in others:
        yield from table_html(title, table)
    yield from faults_html("Not readable", [(entry.name, entry.reason) for entry in compared.unreadable])

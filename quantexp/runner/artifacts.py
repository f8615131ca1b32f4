"""The files of a run, written into a folder that is then recorded.

config.yaml             the composed configuration under its command
table.md                the table of the run
environment.json        machine and versions
NAME.csv                longer tables
pictures/               PNG
report.json             all results of the run
identity.json           what the result depends on
model/                  the network, as `quantexp.load` reads it, unless tracking.store_model=false
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.reports.details import tables
from quantexp.reports.findings import Findings
from quantexp.reports.plots import pictures
from quantexp.reports.table import Table, comparison_table
from quantexp.results.identity import Identity

if TYPE_CHECKING:
    from quantexp.mission import RunResult

CONFIG_FILE, IDENTITY_FILE, REPORT_FILE = "config.yaml", "identity.json", "report.json"
ENVIRONMENT_FILE = "environment.json"
MODEL = "model"  # the folder of the network


def write_result(folder: Path, result: RunResult, identity: Identity, *, drawn: bool, store_model: bool = True) -> None:
    """Write all files of a run's result, with pictures if `drawn`, with the network if `store_model`."""
    from quantexp.storage.stored import save  # imports torch

    report = result.report
    (folder / IDENTITY_FILE).write_text(identity.to_json(), encoding="utf-8")
    (folder / REPORT_FILE).write_text(report.to_json(), encoding="utf-8")
    _write_common(folder, comparison_table(report), tables(report), pictures(report) if drawn else {})
    if store_model:
        save(folder / MODEL, result.model, result.recipe)


def write_findings(folder: Path, found: Findings) -> None:
    """Write all files of a study's findings."""
    _write_common(folder, found.table, found.lines, found.pictures)
    for name, text in found.texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _write_common(
    folder: Path, table: Table, lines: Mapping[str, Iterable[Sequence[object]]], drawings: Mapping[str, bytes]
) -> None:
    from quantexp.system import environment  # imports torch

    (folder / "table.md").write_text(table.markdown(), encoding="utf-8")

    (folder / ENVIRONMENT_FILE).write_text(json.dumps(environment.record(), indent=1), encoding="utf-8")
    for name, rows in lines.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    for name, picture in drawings.items():
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / "pictures" / name).write_bytes(picture)

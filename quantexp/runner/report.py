"""The report of a sweep, made again from the store."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.results.sweep import SweepResult
from quantexp.system.errors import QuantexpError, TrackingError
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.tracking.store import Store

FULL_CSV = "full.csv"
LONGEST_NAME = 80  # characters of a folder's name


def report(name: str, uri: str | None, experiment: str, folder: Path) -> None:
    """Read a sweep, print its tables and its advice, write the report.

    Args:
        name: The sweep's, or the id of its parent run.
        uri: Where it is recorded; None is the SQLite store of the working directory.
        experiment: The MLflow experiment that it is filed under.
        folder: Where the report is written.

    Raises:
        QuantexpError: TrackingError if the sweep cannot be read, ConfigError for a URI that is none.
    """
    from quantexp.config import Server
    from quantexp.runner.sweep_results import read_sweep
    from quantexp.tracking.store import read_store

    if uri is not None:
        Server(experiment=experiment, uri=uri)  # refuses what is no URI
    with read_store(uri, experiment) as store:
        sweep = read_sweep(store, name)
    if sweep.unreadable and not sweep.entries:
        raise TrackingError(f"nothing of the sweep {name} can be read: {sweep.unreadable[0].reason}")
    _show(sweep)
    if lost := lost_results(full_csv(folder), sweep):
        raise TrackingError(f"{folder} keeps its report: {lost}. Write another one with --to FOLDER")

    from quantexp.reports.page import write

    try:
        page = write(sweep, folder)
    except QuantexpError as error:
        raise QuantexpError(f"{error} with --to FOLDER") from error
    show(f"\nreport: {page}")


def _show(sweep: SweepResult) -> None:
    """Print every table of the report and what follows from them."""
    from quantexp.analysis.recommendation import recommend
    from quantexp.reports.flows import flows_table
    from quantexp.reports.networks import network_tables, unsupported_table
    from quantexp.reports.sweep_table import full_table, seeds_table, summary_table

    of_networks = (table for _, table in network_tables(sweep))
    last = (flows_table(sweep), unsupported_table(sweep), summary_table(sweep))
    for table in (full_table(sweep), seeds_table(sweep), *of_networks, *last):
        if table:
            show(table.rich())
    show(recommend(sweep))


def lost_results(there: str, sweep: SweepResult) -> str | None:
    """Say which results of a report that there is cannot be read any more; None if a new one has all of them.

    Args:
        there: The content of its `full.csv`, empty if there is none.
        sweep: What the new report would be made of.
    """
    known = {row["run"] for row in csv.DictReader(io.StringIO(there)) if row.get("run") and row.get("size_mb")}
    gone = [entry for entry in sweep.unreadable if entry.run_id in known]
    return f"it has {len(gone)} results that cannot be read now ({gone[0].reason})" if gone else None


def full_csv(folder: Path) -> str:
    """Return the results of a report in a folder; nothing if there is none."""
    try:
        return (folder / FULL_CSV).read_text(encoding="utf-8")
    except (OSError, ValueError):  # there is none, or it is not ours
        return ""


def recorded_csv(store: Store, parent: str) -> str:
    """Return the results of the report that the parent run of a sweep has; nothing if there is none."""
    from quantexp.tracking.artifacts import read_artifact

    try:
        return read_artifact(store, store.run(parent), f"report/{FULL_CSV}").decode()
    except (TrackingError, ValueError):
        return ""


def folder_name(sweep: str) -> str:
    """Return a name for the report's folder that no sweep's name can lead out of the working directory."""
    safe = re.sub(r"[^\w.,+=-]+", "-", sweep).strip("-.")[:LONGEST_NAME]
    return f"report-{safe or 'sweep'}"

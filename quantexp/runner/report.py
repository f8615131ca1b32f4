"""The report of a sweep, made again from the store."""

from __future__ import annotations

import re
from pathlib import Path

from quantexp.system.terminal import show

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

    from quantexp.analysis.recommendation import recommend
    from quantexp.reports.flows import flows_table
    from quantexp.reports.networks import network_tables, unsupported_table
    from quantexp.reports.page import write
    from quantexp.reports.sweep_table import full_table, seeds_table, summary_table

    page = write(sweep, folder)
    of_networks = (table for _, table in network_tables(sweep))
    others = (flows_table(sweep), unsupported_table(sweep), summary_table(sweep))
    for table in (full_table(sweep), seeds_table(sweep), *of_networks, *others):
        if table:
            show(table.rich())
    show(f"{recommend(sweep)}\n\nreport: {page}")


def folder_name(sweep: str) -> str:
    """Return a name for the report's folder that no sweep's name can lead out of the working directory."""
    safe = re.sub(r"[^\w.,+=-]+", "-", sweep).strip("-.")[:LONGEST_NAME]
    return f"report-{safe or 'sweep'}"

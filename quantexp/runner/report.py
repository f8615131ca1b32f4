"""The report of a recorded sweep, or of a study of compatibility, made from the store."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.results.sweep import SweepResult
from quantexp.system.errors import QuantexpError, TrackingError
from quantexp.system.garbage import uncollected
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.results.compatibility import CompatibilityReport
    from quantexp.tracking.store import Store

FULL_CSV = "full.csv"
MOST_ROWS = 100  # of a table in a terminal
LONGEST_NAME = 80  # characters of a folder's name


@uncollected()
def report(name: str, uri: str | None, experiment: str, folder: Path) -> None:
    """Read a sweep, print its tables and the recommendation, write the report; or do so with a study of compatibility.

    Args:
        name: The name of the sweep or of the study's run, or the id of that run.
        uri: Its store; None is ./mlflow.db.
        experiment: Its MLflow experiment.
        folder: The folder of the report.

    Raises:
        QuantexpError: TrackingError if the sweep cannot be read, ConfigError for a wrong URI.
    """
    from quantexp.config import Server
    from quantexp.runner.finished import find_compatibility
    from quantexp.runner.sweep_results import read_sweep
    from quantexp.tracking.store import read_store

    if uri is not None:
        Server(experiment=experiment, uri=uri)  # checks the URI
    with read_store(uri, experiment) as store:
        study = find_compatibility(store, name)
        sweep = None if study else read_sweep(store, name)
    if sweep is None:
        assert study is not None
        _report_study(study, folder)
        return
    if sweep.unreadable and not sweep.entries:
        raise TrackingError(f"nothing of the sweep {name} can be read: {sweep.unreadable[0].reason}")
    _show(sweep)
    if lost := lost_results(full_csv(folder), sweep):
        raise TrackingError(f"the report in {folder} is not replaced: {lost}. Choose another folder with --to FOLDER")

    from quantexp.reports.page import write

    try:
        page = write(sweep, folder)
    except QuantexpError as error:
        raise QuantexpError(f"{error} with --to FOLDER") from error
    show(f"\nreport: {page}")


def _report_study(study: CompatibilityReport, folder: Path) -> None:
    """Print the table of a study, and write its report."""
    from quantexp.reports.page import write_study
    from quantexp.studies.compatibility.table import findings

    found = findings(study)
    show(found.table.rich())
    try:
        page = write_study(f"compatibility: {study.network}", found, folder)
    except QuantexpError as error:
        raise QuantexpError(f"{error} with --to FOLDER") from error
    show(f"\nreport: {page}")


def _show(sweep: SweepResult) -> None:
    """Print every table of the report with its title, and the recommendation."""
    from quantexp.analysis.recommendation import recommend
    from quantexp.reports.page import tables

    summary, *others = tables(sweep)
    for title, table in (*others, summary):  # the first one last, where a terminal stops
        show(f"\n{title}")
        show(table.cut(MOST_ROWS).rich())
    show(recommend(sweep))


def lost_results(there: str, sweep: SweepResult) -> str | None:
    """Say which results of an existing report cannot be read now; None if a new report has all of them.

    Args:
        there: The `full.csv` of the existing report, empty if there is none.
        sweep: The sweep of the new report.
    """
    known = {row["run"] for row in csv.DictReader(io.StringIO(there)) if row.get("run") and row.get("size_mb")}
    gone = [entry for entry in sweep.unreadable if entry.run_id in known]
    return f"it has {len(gone)} results that cannot be read now ({gone[0].reason})" if gone else None


def full_csv(folder: Path) -> str:
    """Return the results of the report in a folder, empty if there is none."""
    try:
        return (folder / FULL_CSV).read_text(encoding="utf-8")
    except (OSError, ValueError):  # missing, or another file
        return ""


def recorded_csv(store: Store, parent: str) -> str:
    """Return the results of the report of a sweep's parent run, empty if there is none."""
    from quantexp.tracking.artifacts import read_artifact

    try:
        return read_artifact(store, store.run(parent), f"report/{FULL_CSV}").decode()
    except (TrackingError, ValueError):
        return ""


def folder_name(sweep: str) -> str:
    """Return a name for the report's folder that lies in the working directory, whatever the sweep's name is."""
    safe = re.sub(r"[^\w.,+=-]+", "-", sweep).strip("-.")[:LONGEST_NAME]
    return f"report-{safe or 'sweep'}"

"""The end of a sweep: the reports and failures that its jobs left, as one table."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from quantexp.errors import CacheError
from quantexp.screen import show

log = logging.getLogger(__name__)

REPORT, FAILURE = "report.json", "failure.json"


def sum_up(folder: Path) -> int:
    """Print the sweep's table, write it as Markdown and CSV, list what failed; return how many failed."""
    from quantexp.report.results import read_report
    from quantexp.report.table import sweep_csv, sweep_table

    reports = [read_report(path) for path in _in_order(folder, REPORT)]
    failures = [json.loads(path.read_text(encoding="utf-8")) for path in _in_order(folder, FAILURE)]
    if reports:
        table = sweep_table(reports)
        show(table.rich())
        write_text(folder / "table.md", table.markdown())
        write_text(folder / "table.csv", sweep_csv(reports))
        show(f"this table: {folder / 'table.md'} and table.csv")
    if failures:
        log.error("%d of %d runs failed:", len(failures), len(failures) + len(reports))
        for failure in failures:
            log.error("  %s\n    %s", " ".join(failure["overrides"]), failure["error"])
    return len(failures)


def write_text(path: Path, text: str) -> None:
    """Write a file of the sweep's directory. Raises CacheError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CacheError(
            f"{path} cannot be written ({error.strerror or error}); the runs themselves are recorded in MLflow. "
            "Choose another folder with hydra.sweep.dir=FOLDER"
        ) from error


def _in_order(folder: Path, name: str) -> list[Path]:
    """Return the files of this name that the jobs left, by the number of the job."""
    return sorted(folder.glob(f"*/{name}"), key=lambda path: (len(path.parent.name), path.parent.name))

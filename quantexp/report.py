"""The report of a sweep that is recorded: `python -m quantexp.report SWEEP`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from quantexp.system.errors import ConfigError, QuantexpError

FAILED, BAD_VALUES, INTERRUPTED = 1, 2, 130  # exit status
LOCAL = "sqlite:///mlflow.db"
LONGEST_NAME = 80  # characters of a folder's name


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report and write it into a folder. Exits with 1 if it cannot be made, with 2 for bad arguments."""
    given = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± shall not cost a report
    folder = Path(given.to) if given.to else Path(folder_name(given.sweep))
    try:
        report(given.sweep, given.tracking_uri, given.experiment, folder)
    except ConfigError as error:
        _leave(str(error), BAD_VALUES)
    except QuantexpError as error:
        _leave(str(error), FAILED)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)


def report(name: str, uri: str, experiment: str, folder: Path) -> None:
    """Read a sweep, print its tables and its advice, write the report.

    Raises:
        QuantexpError: TrackingError if the sweep cannot be read, ConfigError for a URI that is none.
    """
    from quantexp.config import Local, Server, Tracking
    from quantexp.system.errors import TrackingError
    from quantexp.system.terminal import show
    from quantexp.tracking.store import resolve_uri, sqlite_path
    from quantexp.tracking.sweeps import read_sweep

    path = sqlite_path(resolve_uri(uri))
    if path is not None and not path.is_file():  # opening one would make it
        raise TrackingError(
            f"a sweep is read from its store, there is none at {path}; start where it lies, or give --tracking-uri URI"
        )
    tracking: Tracking = Local(experiment=experiment) if uri == LOCAL else Server(experiment=experiment, uri=uri)
    sweep = read_sweep(tracking, name)

    from quantexp.analysis.recommendation import recommend
    from quantexp.reports.flows import flows_table
    from quantexp.reports.networks import network_tables, unsupported_table
    from quantexp.reports.page import write
    from quantexp.reports.sweep_table import full_table, seeds_table, summary_table

    page = write(sweep, folder)
    of_networks = (table for _, table in network_tables(sweep))
    told = (flows_table(sweep), unsupported_table(sweep), summary_table(sweep))
    for table in (full_table(sweep), seeds_table(sweep), *of_networks, *told):
        if table:
            show(table.rich())
    show(f"{recommend(sweep)}\n\nreport: {page}")


def folder_name(sweep: str) -> str:
    """Return a name for the report's folder that no sweep's name can lead out of the working directory."""
    safe = re.sub(r"[^\w.,+=-]+", "-", sweep).strip("-.")[:LONGEST_NAME]
    return f"report-{safe or 'sweep'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp.report",
        description="Sum up a sweep: its tables, its pictures and which method when, printed, and as Markdown, CSV "
        "and one HTML page that needs no network.",
        allow_abbrev=False,
    )
    parser.add_argument("sweep", metavar="SWEEP", help="name of the sweep, or the id of its run in MLflow")
    parser.add_argument(
        "--tracking-uri", metavar="URI", default=LOCAL, help="where it is recorded (default: ./mlflow.db)"
    )
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        default="quantexp",
        help="MLflow experiment that it is filed under (default: quantexp)",
    )
    parser.add_argument("--to", metavar="FOLDER", help="where the report is written (default: ./report-SWEEP)")
    return parser


def _leave(message: str, status: int) -> NoReturn:
    print(f"quantexp.report: {message}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()

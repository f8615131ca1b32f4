"""The report of a recorded sweep or study of compatibility: `python -m quantexp.report SWEEP`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from quantexp.system.command import command


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report and write it into a folder. Exits with 1 if that fails, with 2 for bad arguments."""
    given = _parser().parse_args(arguments)
    with command("quantexp.report"):
        from quantexp.runner.report import folder_name, report

        folder = Path(given.to) if given.to else Path(folder_name(given.sweep))
        report(given.sweep, given.tracking_uri, given.experiment, folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp.report",
        description="Print the tables of a sweep and a recommendation, and write the report: Markdown, CSV, "
        "pictures, and one HTML page that needs no network. So it does with a run of study=compatibility.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "sweep", metavar="SWEEP", help="name of the sweep, or the id of its run in MLflow; or that of the study"
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="tracking URI of its store (default: ./mlflow.db)")
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        default="quantexp",
        help="its MLflow experiment (default: quantexp)",
    )
    parser.add_argument("--to", metavar="FOLDER", help="folder of the report (default: ./report-SWEEP)")
    return parser


if __name__ == "__main__":
    main()

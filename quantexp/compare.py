"""The same experiments on several machines, side by side: `python -m quantexp.compare STORE STORE ...`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from quantexp.system.command import command


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and write the report into a folder. Exits with 1 if that fails, with 2 for bad arguments."""
    given = _parser().parse_args(arguments)
    with command("quantexp.compare"):
        from quantexp.runner.compare import compare

        compare(given.stores, given.experiment, Path(given.to), given.sweep)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp.compare",
        description="Print the same experiments of several machines side by side, with the speedup on each machine, "
        "and write the report: Markdown, CSV, pictures, and one HTML page that needs no network. Nothing is averaged "
        "over machines, and no store is changed.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "stores",
        metavar="STORE",
        nargs="+",
        help="tracking URI of a store, its SQLite file, or the folder of its mlflow.db; one store is enough if runs of "
        "several machines are recorded in it",
    )
    parser.add_argument("--sweep", metavar="NAME", help="only the runs of the sweep with this name (default: all runs)")
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        default="quantexp",
        help="the MLflow experiment of the runs (default: quantexp)",
    )
    parser.add_argument("--to", metavar="FOLDER", default="compare", help="folder of the report (default: ./compare)")
    return parser


if __name__ == "__main__":
    main()

"""Deliver results that their store did not take: `python -m quantexp.sync [FILE_OR_FOLDER ...]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from quantexp.system.command import command


def main(arguments: Sequence[str] | None = None) -> None:
    """Deliver the results, and say what was delivered. Exits with 1 if one was not, with 2 for bad arguments."""
    given = _parser().parse_args(arguments)
    with command("quantexp.sync"):
        from quantexp.runner.sync import sync

        sync([Path(path) for path in given.paths], given.tracking_uri, given.experiment, given.cache_dir)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp.sync",
        description="Deliver results that their store did not take, because it did not answer or the run was killed. "
        "A result is delivered once: it is looked for in the store first.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths",
        metavar="FILE_OR_FOLDER",
        nargs="*",
        help="a kept result, a folder of them (outbox), or a file quantexp-report-*.json of a result that could not be "
        "recorded (default: outbox in the cache folder)",
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="tracking URI of the store (default: that of each result; ./mlflow.db for quantexp-report-*.json)",
    )
    parser.add_argument(
        "--experiment", metavar="NAME", help="MLflow experiment (default: that of each result, or quantexp)"
    )
    parser.add_argument("--cache-dir", metavar="FOLDER", help="the cache folder (default: your cache directory)")
    return parser


if __name__ == "__main__":
    main()

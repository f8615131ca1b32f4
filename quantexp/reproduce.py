"""Repeat a recorded run, and compare both: `python -m quantexp.reproduce RUN_ID`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from quantexp.system import interrupt, openmp
from quantexp.system.command import check_working_directory, flushed
from quantexp.system.errors import QuantexpError
from quantexp.system.terminal import leave

FAILED, INTERRUPTED = 1, 130  # exit status; 1 if the run cannot be repeated, or the result differs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with 0 if the run was reproduced, 1 if it was not or cannot be, 130 if interrupted."""
    given = _parser().parse_args(arguments)
    openmp.share_cores()
    interrupt.listen()
    reproduced = False
    try:
        with flushed(), interrupt.guard():
            check_working_directory()
            from quantexp.config import Local, Server
            from quantexp.runner.reproduce import reproduce

            uri = given.tracking_uri
            tracking = Server(uri=uri, experiment=given.experiment) if uri else Local(experiment=given.experiment)
            reproduced = reproduce(given.run, tracking, data_dir=given.data_dir, trust=given.trust)
    except QuantexpError as error:
        leave(str(error), FAILED)
    except KeyboardInterrupt:
        leave("interrupted", INTERRUPTED)
    if not reproduced:
        sys.exit(FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp.reproduce",
        description="Repeat a recorded run from training on, and print both results side by side with a verdict.",
    )
    parser.add_argument("run", metavar="RUN_ID", help="the id of a finished run")
    parser.add_argument("--tracking-uri", metavar="URI", help="tracking URI of its store; default ./mlflow.db")
    parser.add_argument("--experiment", default="quantexp", metavar="NAME", help="its MLflow experiment")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of the data, if they were moved since")
    parser.add_argument(
        "--trust", action="store_true", help="import the run's own task and network, which runs their code"
    )
    return parser


if __name__ == "__main__":
    main()

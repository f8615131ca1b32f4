"""Register the best network of a sweep: `python -m quantexp.register SWEEP --name NAME --alias ALIAS`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from quantexp.system.command import command

RULES = ("smallest", "fastest")


def main(arguments: Sequence[str] | None = None) -> None:
    """Register the network. Exits with 1 if that fails or no network keeps the bounds, with 2 for bad arguments."""
    given = _parser().parse_args(arguments)
    with command("quantexp.register"):
        from quantexp.analysis.gate import Rules
        from quantexp.runner.register import register

        bounds = Rules(max_accuracy_drop=given.within, min_agreement=given.min_agreement, min_sqnr_db=given.min_sqnr_db)
        register(
            given.sweep,
            given.name,
            given.alias,
            rule=given.rule,
            bounds=bounds,
            batch_size=given.batch_size,
            where=given.where,
            uri=given.tracking_uri,
            experiment=given.experiment,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp.register",
        description="Register the best quantized network of a recorded sweep in MLflow's model registry, and say why "
        "it was chosen and why each other one was not. train.checkpoint=models:/NAME@ALIAS and "
        "quantexp.load('models:/NAME@ALIAS') take it.",
        allow_abbrev=False,
    )
    parser.add_argument("sweep", metavar="SWEEP", help="name of the sweep, or the id of its run in MLflow")
    parser.add_argument("--name", required=True, help="the name in the registry")
    parser.add_argument("--alias", default="best", help="the alias that then names this version (default: best)")
    parser.add_argument("--rule", choices=RULES, default=RULES[0], help="what is best (default: smallest)")
    parser.add_argument(
        "--within",
        metavar="SHARE",
        type=float,
        help="the accuracy drop that a network must keep, decided by its interval; 0.01 is one point (default with "
        "labels: 0.01)",
    )
    parser.add_argument("--min-agreement", metavar="SHARE", type=float, help="the least agreement with float")
    parser.add_argument("--min-sqnr-db", metavar="DB", type=float, help="the least SQNR of the outputs")
    parser.add_argument(
        "--batch-size", metavar="N", type=int, help="of --rule fastest (default: 1, or the only one measured)"
    )
    parser.add_argument(
        "--where",
        metavar="SETTING=VALUE",
        action="append",
        default=[],
        help="only the runs with this setting, such as task=mnist; may be repeated",
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="tracking URI of the store (default: ./mlflow.db)")
    parser.add_argument(
        "--experiment", metavar="NAME", default="quantexp", help="the MLflow experiment (default: quantexp)"
    )
    return parser


if __name__ == "__main__":
    main()

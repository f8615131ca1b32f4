"""A gate for CI on recorded results: `python -m quantexp.gate RUN_OR_SWEEP --max-accuracy-drop 0.01 ...`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

from quantexp.system.command import command


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each rule. Exits with 0, 1 or 3 as the rules decide, with 2 for bad arguments."""
    given = _parser().parse_args(arguments)
    with command("quantexp.gate"):
        from quantexp.analysis.gate import Rules
        from quantexp.runner.gate import gate

        rules = Rules(
            max_accuracy_drop=given.max_accuracy_drop,
            min_speedup=given.min_speedup,
            max_size_mb=given.max_size_mb,
            min_agreement=given.min_agreement,
            min_sqnr_db=given.min_sqnr_db,
            batch_sizes=tuple(dict.fromkeys(given.batch_size)),
        )
        status = gate(given.results, rules, given.tracking_uri, given.experiment, given.against)
    raise SystemExit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp.gate",
        description="Check the quantized network of a recorded run against rules, or every quantized network of a "
        "sweep: a sweep passes if each of its runs passes. Prints one line for each rule. A rule is decided by the "
        "95 % interval of its figure: it passes if the whole interval keeps the bound, it fails if none of it does, "
        "otherwise it is undecided.",
        epilog="exit status: 0 all rules pass; 1 a rule fails, a run failed or the store cannot be read; 2 wrong "
        "arguments; 3 no rule fails, but one is undecided.",
        allow_abbrev=False,
    )
    parser.add_argument("results", metavar="RUN_OR_SWEEP", help="id of a run, name of a sweep, or id of its run")
    share, positive = _number(0, 1), _number(0, math.inf)
    parser.add_argument(
        "--max-accuracy-drop", metavar="SHARE", type=share, help="float minus quantized; 0.01 is one point"
    )
    parser.add_argument(
        "--min-speedup", metavar="RATIO", type=positive, help="paired speedup over the float network in its runtime"
    )
    parser.add_argument("--max-size-mb", metavar="MB", type=positive, help="size of the saved state dict")
    parser.add_argument(
        "--min-agreement",
        metavar="SHARE",
        type=share,
        help="share of examples predicted as by the float network",
    )
    parser.add_argument(
        "--min-sqnr-db",
        metavar="DB",
        type=_number(-math.inf, math.inf),
        help="SQNR of the outputs against those of the float network",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        action="append",
        default=[],
        help="a batch size of --min-speedup; may be repeated (default: every measured one)",
    )
    parser.add_argument(
        "--against",
        metavar="RUN",
        help="id of another run: --max-accuracy-drop is then how much larger the drop may be than that of RUN, and "
        "--min-speedup the least ratio of both speedups (0.95: at most 5 percent of the speedup is lost)",
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="tracking URI of the store (default: ./mlflow.db)")
    parser.add_argument(
        "--experiment", metavar="NAME", default="quantexp", help="the MLflow experiment (default: quantexp)"
    )
    return parser


def _number(least: float, most: float) -> Callable[[str], float]:
    """Return a type of arguments: finite numbers in an interval."""

    def number(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and least <= value <= most):
            ends = f" from {least:g} to {most:g}" if math.isfinite(most) else f" of at least {least:g}"
            raise argparse.ArgumentTypeError(f"must be a number{ends * math.isfinite(least)}, got {text}")
        return value

    return number


if __name__ == "__main__":
    main()

"""Write the network of a run for other programs: `python -m quantexp.export RUN_ID --to FORMAT --out FOLDER`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from quantexp.system.command import command

FORMATS = ("onnx", "openvino", "executorch", "torch_export")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the network. Exits with 1 if that fails, with 2 for bad arguments or missing packages."""
    given = _parser().parse_args(arguments)
    with command("quantexp.export"):
        from quantexp.runner.export import export

        export(given.run, given.to, Path(given.out), uri=given.tracking_uri, trust=given.trust)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m quantexp.export",
        description="Write the network of a recorded run for other programs, with an example and a README that says "
        "how to load it. What was written is checked in a new process. torch_export: load only files that you wrote.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN_ID", help="the id of a run, or a folder that holds recipe.json")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to write, new or empty")
    parser.add_argument("--tracking-uri", metavar="URI", help="tracking URI of its store; default ./mlflow.db")
    parser.add_argument(
        "--trust", action="store_true", help="import the run's own task and network, which runs their code"
    )
    return parser


if __name__ == "__main__":
    main()

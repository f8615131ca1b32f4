"""The command: hand the arguments to Hydra, and turn every error into a message and an exit status."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from quantexp.system import interrupt, openmp

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
MULTIRUN = ("-m", "--multirun")  # which Hydra's parser takes ahead of all settings only


def main() -> None:
    """Run `quantexp`. Exits with 0, 1 after a failed run, 2 for values that cannot be run, 130 if interrupted."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        from quantexp.cli.help import help_text

        print(help_text())  # Hydra's own way there takes as long as importing it again
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± shall not cost a result
    openmp.share_cores()
    interrupt.listen()
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in MULTIRUN)
    try:
        with interrupt.kept():
            _run_hydra()
    except KeyboardInterrupt:
        print("quantexp: interrupted", file=sys.stderr)  # in no colours: their import may be what was cut short
        exec("")  # else Python, as the interrupt left generated code, would end by the signal and not by the status
        sys.exit(INTERRUPTED)


def _run_hydra() -> None:
    import hydra

    from quantexp.cli.compose import BAD_VALUES, explain
    from quantexp.cli.hooks import job
    from quantexp.cli.schemas import conf_dir, register
    from quantexp.system.terminal import leave

    register()
    wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print in its own words
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except Exception as error:  # a job tells its own errors; what arrives here went wrong while composing
        if wants_traceback or interrupt.requested():
            raise
        leave(explain(error), BAD_VALUES)


if __name__ == "__main__":
    main()

"""The command `python -m quantexp`: Hydra gets the arguments; every error becomes a message and an exit status."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from quantexp.system import interrupt, openmp

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
MULTIRUN = ("-m", "--multirun")  # Hydra's parser accepts them before the settings only


def main() -> None:
    """Run the command. Exits with 0, 1 after a failed run, 2 for settings that cannot be run, 130 if interrupted."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        from quantexp.cli.help import help_text

        try:
            print(help_text(), flush=True)  # importing Hydra for it would double the time
        except BrokenPipeError:  # a reader such as `head` has enough; Python must not find that again when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± must not lose a result
    openmp.share_cores()
    interrupt.listen()
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in MULTIRUN)
    try:
        with interrupt.guard():
            _run_hydra()
    except KeyboardInterrupt:
        print("quantexp: interrupted", file=sys.stderr)  # without colours: their import may have been interrupted
        exec("")  # otherwise Python may exit by the signal, not by the status, after an interrupt in generated code
        sys.exit(INTERRUPTED)


def _run_hydra() -> None:
    import hydra

    from quantexp.cli.compose import BAD_VALUES, explain
    from quantexp.cli.hooks import FAILED, job, sum_up_open_sweep
    from quantexp.cli.schemas import conf_dir, register
    from quantexp.system.terminal import leave

    register()
    wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors that it would print itself
    try:
        with interrupt.guard():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except KeyboardInterrupt as error:
        sum_up_open_sweep(error)
        raise
    except Exception as error:  # jobs handle their own errors: this one is from composing, or of a launcher
        if sum_up_open_sweep(error):
            sys.exit(FAILED)
        if wants_traceback:
            raise
        leave(explain(error), BAD_VALUES)


if __name__ == "__main__":
    main()

"""The command `python -m quantexp`: Hydra gets the arguments; every error becomes a message and an exit status."""

from __future__ import annotations

import os
import re
import sys
from io import TextIOWrapper

from quantexp.system import command, interrupt, openmp
from quantexp.system.errors import ConfigError

BAD_VALUES = 2  # exit status
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
MULTIRUN = ("-m", "--multirun")
SINGLE_RUN = r"\+{0,2}hydra\.mode=['\"]?RUN['\"]?"
WITH_VALUE = ("-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path", "-p", "--package", "-c", "--cfg")


def main() -> None:
    """Run the command. Exits with 0, 1 after a failed run, 2 for settings that cannot be run, 130 if interrupted."""
    with command.flushed():
        _main()


def _main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        from quantexp.cli.help import help_text

        print(help_text())  # importing Hydra for it would double the time
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± must not lose a result
    _check_surroundings()
    openmp.share_cores()
    interrupt.listen()
    sys.argv[1:] = _flags_first(sys.argv[1:])
    try:
        with interrupt.guard():
            _run_hydra()
    except KeyboardInterrupt:
        print("quantexp: interrupted", file=sys.stderr)  # without colours: their import may have been interrupted
        exec("")  # otherwise Python may exit by the signal, not by the status, after an interrupt in generated code
        sys.exit(INTERRUPTED)


def _flags_first(arguments: list[str]) -> list[str]:
    """Return the arguments with the flags before the settings, as Hydra's parser needs them."""
    flags: list[str] = []
    settings: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        (flags if argument.startswith("-") or before in WITH_VALUE else settings).append(argument)
    return [*flags, *settings]


def _check_surroundings() -> None:
    """Leave with a message where the command cannot work, or is called with arguments that are another program's."""
    from quantexp.system.terminal import leave

    try:
        command.check_working_directory()
    except ConfigError as error:
        leave(str(error), BAD_VALUES)
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        leave(
            "main() is the command and takes its settings from the command line, which a notebook or an interactive "
            "session has not; call quantexp.run(quantexp.Experiment(...)), or !python -m quantexp data=sample",
            BAD_VALUES,
        )
    if {*MULTIRUN} & {*sys.argv} and any(re.fullmatch(SINGLE_RUN, argument) for argument in sys.argv):
        leave("-m is a sweep, hydra.mode=RUN a single run; leave out one of them", BAD_VALUES)


def _run_hydra() -> None:
    import logging

    import hydra

    from quantexp.cli import loader
    from quantexp.cli.compose import explain
    from quantexp.cli.hooks import end_sweep, job
    from quantexp.cli.schemas import conf_dir, register
    from quantexp.system.terminal import leave

    register()
    loader.install()
    logging.raiseExceptions = False  # a reader that has closed the pipe is no reason for tracebacks
    wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors that it would print itself
    try:
        with interrupt.guard():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except (SystemExit, KeyboardInterrupt) as error:
        end_sweep(error)
        raise
    except BrokenPipeError:  # `--cfg job | head`
        raise
    except Exception as error:  # jobs handle their own errors: this one is from composing, or from a launcher
        if wants_traceback or interrupt.requested():
            raise
        end_sweep(error)
        leave(explain(error), BAD_VALUES)


if __name__ == "__main__":
    main()

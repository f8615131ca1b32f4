"""What works on this machine, and what makes its figures unreliable: `python -m quantexp.doctor`."""

from __future__ import annotations

import logging
import sys
import warnings

from quantexp.system import interrupt, openmp
from quantexp.system.command import check_working_directory, flushed
from quantexp.system.errors import ConfigError
from quantexp.system.terminal import leave

USAGE = """usage: python -m quantexp.doctor

Prints this machine as it is recorded with every run, tries each method, flow, precision and engine on a toy network,
torch.compile and a GPU, and says what works and what makes figures unreliable. It takes half a minute, needs no
options and no data, and leaves no files. The exit status is 1 if not even the float network runs, otherwise 0."""

FAILED, BAD_VALUES, INTERRUPTED = 1, 2, 130  # exit status


def main() -> None:
    """Run the doctor. Exits with 1 if not even the float network runs, with 2 if there are arguments."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        with flushed():
            print(USAGE)
        return
    if given := " ".join(sys.argv[1:]):
        leave(f"the doctor takes no arguments, got {given}; see python -m quantexp.doctor --help", BAD_VALUES)
    openmp.share_cores()
    interrupt.listen()
    works = False
    try:
        with flushed(), interrupt.guard(), warnings.catch_warnings():
            check_working_directory()  # torch needs one
            from quantexp.runner.doctor import examine

            logging.disable(logging.CRITICAL)  # what fails becomes a row of the table
            warnings.simplefilter("ignore")
            works = examine()
    except ConfigError as error:
        leave(str(error), BAD_VALUES)
    except KeyboardInterrupt:
        leave("interrupted", INTERRUPTED)
    if not works:
        sys.exit(FAILED)


if __name__ == "__main__":
    main()

"""What this machine can do, and what will make its numbers unreliable: `python -m quantexp.doctor`."""

from __future__ import annotations

import logging
import sys
import warnings

from quantexp.system import openmp
from quantexp.system.terminal import leave

USAGE = """usage: python -m quantexp.doctor

Prints this machine as it is recorded with every run, tries each method, flow, precision and engine on a toy model,
torch.compile and a GPU, and says what works here and what will make numbers unreliable. It takes half a minute,
no options and no data, and leaves nothing behind. The exit status is 0 unless not even the float model runs."""

BAD_VALUES, INTERRUPTED = 2, 130  # exit status


def main() -> None:
    """Run the doctor. Exits with 1 if not even the float model runs, with 2 for arguments."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE)
        return
    if given := " ".join(sys.argv[1:]):
        leave(f"the doctor takes no arguments, got {given}; see python -m quantexp.doctor --help", BAD_VALUES)
    openmp.share_cores()
    from quantexp.runner.doctor import examine

    logging.disable(logging.CRITICAL)  # what fails becomes a row; the libraries need not report it too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sys.exit(0 if examine() else 1)
    except KeyboardInterrupt:
        leave("interrupted", INTERRUPTED)


if __name__ == "__main__":
    main()

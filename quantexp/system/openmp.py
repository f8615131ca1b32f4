"""How the threads of OpenMP wait for each other; this is fixed when torch is imported.

Torch splits each operator among threads, which wait for each other at its end. Torch's Linux wheels contain GNU
OpenMP, which lets a waiting thread spin for some milliseconds (GOMP_SPINCOUNT=300000) before it sleeps. That is fastest
on an idle machine. If another process takes one of the cores, the spinning threads occupy the core that the late thread
needs, in every operator, and training takes 20 to 40 times as long. A thread that spins for a shorter time leaves its
core to the late one.

OpenMP reads the variables once, when it is loaded, so `share_cores` must be called before torch is imported. Child
processes inherit the variables. Torch's results do not depend on them.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLE = "GOMP_SPINCOUNT"
SPIN_COUNT = "5000"  # longer than most gaps between two operators; docs/speed.md compares it with others
GNU = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # what GNU OpenMP reads
OTHERS = ("KMP_BLOCKTIME", "KMP_LIBRARY")  # what the OpenMP of LLVM and Intel reads, beside OMP_WAIT_POLICY
MAPS = Path("/proc/self/maps")


def share_cores() -> None:
    """Let waiting threads sleep soon, so that a busy process beside them slows training down less.

    Call it before torch is imported; later it has no effect. Variables that are set already are not changed.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in GNU):
        os.environ[VARIABLE] = SPIN_COUNT


def shortened() -> bool:
    """Return whether the threads of this process wait as `share_cores` sets it, which is shorter than torch's wait."""
    return os.environ.get(VARIABLE) == SPIN_COUNT and _uses_gnu()


def waiting() -> dict[str, str]:
    """Return the variables that define how threads wait, those that are set."""
    return {name: os.environ[name] for name in (*GNU, *OTHERS) if name in os.environ}


@functools.cache  # once a process
def warn_of_spinning() -> None:
    """Warn if the threads of this process spin as long as GNU OpenMP lets them, and say what to set."""
    if any(name in os.environ for name in GNU) or not _uses_gnu():
        return
    log.warning(
        "torch was imported with %s unset: if another process keeps a core busy, training can take 20 to 40 times as "
        "long; set %s=%s before Python starts, or call quantexp.share_cores() before torch is imported",
        *(VARIABLE, VARIABLE, SPIN_COUNT),
    )


def _uses_gnu() -> bool:
    """Return whether GNU OpenMP is loaded; only Linux lists loaded libraries."""
    try:
        return "libgomp" in MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False

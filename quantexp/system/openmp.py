"""How the threads of OpenMP wait for each other, which is settled when torch is imported.

Torch splits each operator among threads, which meet at its end. GNU OpenMP, which torch's wheels for Linux bring
along, lets a thread that waits there spin for some milliseconds (GOMP_SPINCOUNT=300000) before it sleeps. That is
fastest on an idle machine. If another process takes one of the cores, the threads that spin hold the cores that the
late thread could go on with, at every operator, and training takes 20 to 40 times as long. A thread that spins for
a shorter time leaves its core to the late one.

OpenMP reads the variables once, when it is loaded. `share_cores` thus has to be called before torch is imported; child
processes inherit what it sets. The results of torch do not depend on it.
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
    """Let waiting threads leave their cores to other processes soon, so that training is not slowed down too much.

    Call it before torch is imported: later it changes nothing. Variables that the user has set stay as they are.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in GNU):
        os.environ[VARIABLE] = SPIN_COUNT


def waiting() -> dict[str, str]:
    """Return the variables that say how threads wait, as far as they are set."""
    return {name: os.environ[name] for name in (*GNU, *OTHERS) if name in os.environ}


@functools.cache  # once a process
def warn_of_spinning() -> None:
    """Say what to set if the threads of this process spin as long as GNU OpenMP lets them."""
    if any(name in os.environ for name in GNU) or not _uses_gnu():
        return
    log.warning(
        "torch was imported with %s unset: if another process keeps a core busy, training can take 20 to 40 times as "
        "long; set %s=%s before Python starts, or call quantexp.share_cores() before torch is imported",
        *(VARIABLE, VARIABLE, SPIN_COUNT),
    )


def _uses_gnu() -> bool:
    """Tell whether GNU OpenMP is loaded; only Linux lists what is."""
    try:
        return "libgomp" in MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False

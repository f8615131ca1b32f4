"""Whose a run is: each names its process, so that what a dead one left RUNNING can be closed."""

from __future__ import annotations

import json
import logging
import os
import platform
from pathlib import Path

import psutil

from quantexp.tracking.names import ERROR, PROCESS
from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

TOLERANCE_SECONDS = 2.0  # the start of a process is computed from the boot time, which a clock that is set moves


def mark() -> str:
    """Return what names this process: host, namespace, number and start, as numbers are used again."""
    return json.dumps(
        {
            "host": platform.node(),
            "namespace": _namespace(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
        }
    )


def is_dead(marked: str) -> bool:
    """Tell whether the process of a mark is known to have ended; of another host's nothing is known."""
    try:
        process = json.loads(marked)
        if (process["host"], process["namespace"]) != (platform.node(), _namespace()):
            return False
        started = psutil.Process(int(process["pid"])).create_time()
        return bool(abs(started - float(process["started"])) > TOLERANCE_SECONDS)
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError, psutil.Error):  # not a mark of ours, or a process that is not shown
        return False


def close_orphans(store: Store) -> None:
    """Close as KILLED the runs that processes of this host left RUNNING when they were killed."""
    for run in store.search("attributes.status = 'RUNNING'"):
        if is_dead(run.tags.get(PROCESS, "")):
            log.info("closed    %s: its process was killed", run.name)
            store.client.set_tag(run.run_id, ERROR, "its process was killed")
            store.client.set_terminated(run.run_id, "KILLED")


def _namespace() -> str:
    """Name the space in which process numbers count; a container has its own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""

"""The process of a run, so that runs of killed processes can be closed."""

from __future__ import annotations

import json
import logging
import platform
from pathlib import Path

import psutil

from quantexp.tracking.names import ERROR, PROCESS
from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

TOLERANCE_SECONDS = 2.0  # setting the clock shifts the boot time, from which the start of a process is computed


def mark(pid: int | None = None) -> str:
    """Return the mark of a process of this host, by default this one.

    It has host, namespace, process id and start, as process ids are reused.
    """
    process = psutil.Process(pid)
    return json.dumps(
        {
            "host": platform.node(),
            "namespace": _namespace(),
            "pid": process.pid,
            "started": process.create_time(),
        }
    )


def is_dead(marked: str) -> bool:
    """Return whether the process of a mark has ended; False for a process of another host."""
    try:
        if not of_this_host(marked):
            return False
        process = json.loads(marked)
        started = psutil.Process(int(process["pid"])).create_time()
        return bool(abs(started - float(process["started"])) > TOLERANCE_SECONDS)
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError, psutil.Error):  # another mark, or a hidden process
        return False


def of_this_host(marked: str) -> bool:
    """Return whether the process of a mark belongs to this host and namespace, so that `is_dead` knows of it."""
    try:
        process = json.loads(marked)
        return bool((process["host"], process["namespace"]) == (platform.node(), _namespace()))
    except (ValueError, KeyError, TypeError):
        return False


def close_orphans(store: Store) -> None:
    """Close runs of killed processes of this host, which are still RUNNING, as KILLED."""
    for run in store.search("attributes.status = 'RUNNING'"):
        if is_dead(run.tags.get(PROCESS, "")):
            log.info("closed    %s: its process was killed", run.name)
            store.client.set_tag(run.run_id, ERROR, "its process was killed")
            store.client.set_terminated(run.run_id, "KILLED")


def fail_runs_of(store: Store, marked: str, error: str) -> None:
    """Close the runs that an ended process left RUNNING or KILLED as FAILED, with the error."""
    for run in store.search("attributes.status != 'FINISHED'"):
        if run.status in ("RUNNING", "KILLED") and _same(run.tags.get(PROCESS, ""), marked):
            store.client.set_tag(run.run_id, ERROR, error)
            store.client.set_terminated(run.run_id, "FAILED")


def _same(one: str, other: str) -> bool:
    """Return whether two marks are of the same process."""
    try:
        first, second = json.loads(one), json.loads(other)
        near = abs(float(first.pop("started")) - float(second.pop("started"))) < TOLERANCE_SECONDS
    except (ValueError, KeyError, TypeError, AttributeError):  # another mark
        return False
    return near and bool(first == second)


def _namespace() -> str:
    """Return the namespace of process ids; a container has its own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""

"""Runs that a killed process left behind are closed; those of the living and of other hosts are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantexp.config.tracking import Local
from quantexp.tracking.names import PROCESS
from quantexp.tracking.processes import close_orphans, is_dead, mark
from quantexp.tracking.run import track
from quantexp.tracking.store import Store, open_store


@pytest.fixture
def store(workdir: Path) -> Store:
    return open_store(Local())


@pytest.fixture(scope="module")
def dead() -> str:
    """The mark of a process that has ended."""
    code = "from quantexp.tracking.processes import mark; print(mark())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def changed(**values: object) -> str:
    return json.dumps({**json.loads(mark()), **values})


def test_this_process_lives_and_one_that_ended_is_dead(dead: str) -> None:
    assert not is_dead(mark())
    assert is_dead(dead)


def test_a_number_that_was_given_again_is_not_the_process_that_had_it() -> None:
    assert json.loads(mark())["pid"] == os.getpid()
    assert is_dead(changed(started=12345.0))


@pytest.mark.parametrize(
    "marked",
    [changed(host="elsewhere", pid=1), changed(namespace="pid:[1]", pid=1), "", "{}", "[]", '{"pid": "x"}'],
    ids=["another host", "another namespace", "nothing", "no fields", "a list", "no number"],
)
def test_of_what_is_not_a_process_of_this_host_nothing_is_known(marked: str) -> None:
    assert not is_dead(marked)


def test_only_runs_of_the_dead_are_closed(store: Store, dead: str) -> None:
    def begun(tag: str | None) -> str:
        tags = {} if tag is None else {PROCESS: tag}
        return str(store.client.create_run(store.experiment_id, tags=tags).info.run_id)

    killed, remote, unmarked = begun(dead), begun(changed(host="elsewhere")), begun(None)
    with track(store, "living", {}) as living:
        close_orphans(store)
        statuses = {run: store.client.get_run(run).info.status for run in (killed, remote, unmarked, living.run_id)}
    assert statuses == {killed: "KILLED", remote: "RUNNING", unmarked: "RUNNING", living.run_id: "RUNNING"}
    assert store.client.get_run(killed).data.tags["error"] == "its process was killed"

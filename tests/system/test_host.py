"""What processes on one host owe each other, with processes of their own and a lock of their own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantexp.system import host

PATIENCE = 60.0  # seconds until a test that hangs is given up
SILENCE = 0.3  # seconds in which who does not wait would have said something

BEGIN = """
import os, sys
from pathlib import Path
from quantexp.system import host
from quantexp.system.host import alone, give_way
host.MEMORY = Path(sys.argv[1])

def say(text):
    print(text, flush=True)

def note(text):
    with (host.MEMORY / "events").open("a") as file:
        file.write(text + "\\n")
"""
MEASURE = """
with alone():
    say("begun")
    sys.stdin.readline()
    note("measured")
say("ended")
"""
MEASURE_WITHIN = """
with alone():
    with alone():
        give_way()
    give_way()
    say("begun")
    sys.stdin.readline()
    note("measured")
say("ended")
"""
PASS_BY = """
say("ready")
give_way()
note("passed")
say("passed")
"""
TRAIN = """
import torch
from quantexp.tasks.data import Tensors
split = Tensors(torch.zeros(10_000, dtype=torch.int64), (torch.zeros(10_000, 4),))
while True:
    for batch, rows in split.batches(64):
        say("batch")
        torch.ones(200, 200) @ torch.ones(200, 200)
"""

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start processes that share the lock of this test; whatever still runs at the end is killed."""
    children: list[subprocess.Popen[bytes]] = []

    def run(code: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-u", "-c", BEGIN + code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what is not yet read stays in the pipe, where select sees it
        )
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate(timeout=PATIENCE)


def said(child: subprocess.Popen[bytes], patience: float = PATIENCE) -> str:
    """Return the next line that the child says, nothing if it says none in time."""
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], patience)
    return child.stdout.readline().decode().strip() if ready else ""


def go_on(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.write(b"\n")


def events(folder: Path) -> list[str]:
    return (folder / "events").read_text().splitlines()


@pytest.fixture
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process with a lock of this test."""
    monkeypatch.setattr(host, "MEMORY", tmp_path)
    host._lock.cache_clear()
    yield tmp_path
    host._lock.cache_clear()


@pytest.mark.parametrize("measure", [MEASURE, MEASURE_WITHIN], ids=["once", "within itself"])
def test_who_gives_way_waits_until_the_other_has_measured(tmp_path: Path, start: Start, measure: str) -> None:
    measuring = start(measure)
    assert said(measuring) == "begun"
    passing = start(PASS_BY)
    assert said(passing) == "ready"
    assert said(passing, SILENCE) == "", "the other still measures"
    go_on(measuring)
    assert said(passing) == "passed"
    assert said(measuring) == "ended"
    assert events(tmp_path) == ["measured", "passed"]


def test_who_measures_and_is_killed_holds_nobody_up(tmp_path: Path, start: Start) -> None:
    measuring = start(MEASURE)
    assert said(measuring) == "begun"
    passing = start(PASS_BY)
    assert said(passing) == "ready"
    assert said(passing, SILENCE) == ""
    os.kill(measuring.pid, signal.SIGKILL)
    assert said(passing) == "passed"
    assert events(tmp_path) == ["passed"]


def test_processes_that_measure_do_so_in_turn(tmp_path: Path, start: Start) -> None:
    first = start(MEASURE)
    assert said(first) == "begun"
    second = start(MEASURE)
    assert said(second, 5 * SILENCE) == "", "it has not begun"
    go_on(first)
    assert said(first) == "ended"
    assert said(second) == "begun"
    go_on(second)
    assert said(second) == "ended"
    assert events(tmp_path) == ["measured", "measured"]


def test_training_stands_still_while_another_process_measures(start: Start) -> None:
    training = start(TRAIN)
    assert said(training) == "batch"
    measuring = start(MEASURE)
    while not said(measuring, 0):
        said(training, SILENCE)
    while said(training, SILENCE):  # until it looks at the lock
        pass
    assert said(training, SILENCE) == ""
    assert training.poll() is None
    go_on(measuring)
    assert said(measuring) == "ended"
    assert said(training) == "batch"


def test_nobody_waits_where_nobody_measures(start: Start, tmp_path: Path) -> None:
    for _ in range(2):
        passing = start(PASS_BY)
        assert [said(passing), said(passing)] == ["ready", "passed"]
    assert events(tmp_path) == ["passed", "passed"]


def test_who_must_wait_to_measure_says_so(
    own_lock: Path, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring = start(MEASURE)
    assert said(measuring) == "begun"

    class Letting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            go_on(measuring)

    log, letting = logging.getLogger("quantexp.system.host"), Letting()
    log.addHandler(letting)
    try:
        with caplog.at_level(logging.INFO, "quantexp.system.host"), host.alone():
            assert events(own_lock) == ["measured"]
    finally:
        log.removeHandler(letting)
    assert [record.getMessage() for record in caplog.records] == ["waiting   another process measures on this host"]


def test_a_failure_while_measuring_lets_the_others_go_on(own_lock: Path, start: Start) -> None:
    with pytest.raises(ValueError, match="of its own"), host.alone():
        raise ValueError("a failure of its own")
    passing = start(PASS_BY)
    assert [said(passing), said(passing)] == ["ready", "passed"]


def test_where_no_lock_can_be_made_one_measures_all_the_same_and_is_warned_once(
    own_lock: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (own_lock / "quantexp").write_text("no folder")
    for _ in range(2):
        with host.alone():
            host.give_way()
    host.give_way()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"no lock in {own_lock / 'quantexp'}" in record.getMessage()


def test_a_child_that_is_forked_has_a_lock_of_its_own(own_lock: Path) -> None:
    host.give_way()  # makes the lock of this process
    child = multiprocessing.get_context("fork").Process(target=take_the_lock)
    child.start()
    child.join(30)
    assert child.exitcode == 0


def take_the_lock() -> None:
    host._checked = 0.0
    host.give_way()

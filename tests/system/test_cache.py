from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantexp.system.cache import cache_folder, locked, write_atomically
from quantexp.system.errors import CacheError

PATIENCE = 60  # seconds until a test that hangs is given up

HOLD = """
import sys, time
from pathlib import Path
from quantexp.system.cache import locked
with locked(Path(sys.argv[1]), "nobody"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock `entry.lock` and does not let go."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "entry.lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait(PATIENCE)
    process.stdout.close()


class Waiting(logging.Handler):
    """Tell when a record says that someone waits."""

    def __init__(self) -> None:
        super().__init__()
        self.said = threading.Event()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
        self.said.set()


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    """What the cache logs about waiting."""
    handler, log = Waiting(), logging.getLogger("quantexp.system.cache")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.setLevel(before)
    log.removeHandler(handler)


# Files that are whole or absent


def test_what_is_written_is_what_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "entry.json"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_content_and_no_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "entry.json"
    path.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_is_interrupted_leaves_the_old_content_and_no_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "entry.json"
    path.write_bytes(b"old")

    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_put_in_its_place_leaves_no_scratch_file(tmp_path: Path) -> None:
    folder = tmp_path / "entry.json"
    folder.mkdir()
    with pytest.raises(OSError, match=r"entry\.json"):
        write_atomically(folder, b"new")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "entry.json", b"new")


def test_until_it_is_whole_the_new_content_stands_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "entry.json"
    path.write_bytes(b"old")
    seen: list[bytes] = []
    flush = os.fsync

    def look(handle: int) -> None:
        seen.append(path.read_bytes())
        flush(handle)

    monkeypatch.setattr(os, "fsync", look)
    write_atomically(path, b"new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


# Locks


def test_a_lock_excludes_another_process_and_is_freed_when_its_holder_is_killed(
    tmp_path: Path, holder: subprocess.Popen[str], waiting: Waiting
) -> None:
    entered = threading.Event()

    def enter() -> None:
        with locked(tmp_path / "entry.lock", "another process trains"):
            entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    assert waiting.said.wait(PATIENCE)
    assert waiting.text == "waiting   another process trains"
    assert not entered.wait(0.3), "the other process still holds the lock"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(PATIENCE)
    assert entered.wait(PATIENCE), "its holder is dead"
    thread.join(PATIENCE)


def test_a_free_lock_is_taken_without_a_word_and_can_be_taken_again(tmp_path: Path, waiting: Waiting) -> None:
    for _ in range(2):
        with locked(tmp_path / "entry.lock", "nobody"):
            pass
    assert not waiting.said.is_set()


def test_a_lock_is_freed_when_its_holder_fails(tmp_path: Path, waiting: Waiting) -> None:
    with pytest.raises(ValueError, match="of its own"), locked(tmp_path / "entry.lock", "nobody"):
        raise ValueError("a failure of its own")
    with locked(tmp_path / "entry.lock", "nobody"):
        pass
    assert not waiting.said.is_set()


def test_an_oserror_inside_a_lock_is_not_taken_for_one_of_the_cache(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "entry.lock", "nobody"):
        (tmp_path / "absent").read_bytes()


def test_a_lock_in_a_folder_that_cannot_be_written_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(CacheError, match="cache_dir=FOLDER"), locked(file / "entry.lock", "nobody"):
        pass


TRY = """
import sys
from pathlib import Path
from quantexp.system.cache import locked
from quantexp.system.errors import CacheError
try:
    with locked(Path(sys.argv[1]), "nobody"):
        print("held")
except CacheError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="this system has no folder in which nobody can make a file")
@pytest.mark.parametrize("path", ["/proc/entry.lock", "/proc/self/entry.lock"])
def test_a_lock_whose_file_cannot_be_made_is_an_error_at_once(path: str) -> None:
    # In a process of its own, as filelock would try for ever.
    done = subprocess.run([sys.executable, "-c", TRY, path], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.startswith(f"the cache must be a writable folder, {Path(path).parent} is not (")
    assert done.stdout.endswith("choose another with cache_dir=FOLDER\n")


# The folder


def test_the_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = cache_folder(str(tmp_path / "a" / "b"), "models")
    assert folder == tmp_path / "a" / "b" / "models"
    assert folder.is_dir()


def test_a_relative_cache_stays_where_it_was_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cache_folder("mine", "models") == tmp_path / "mine" / "models"


def test_without_a_setting_the_user_has_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name, appauthor: str(tmp_path / name))
    assert cache_folder(None, "models") == tmp_path / "quantexp" / "models"

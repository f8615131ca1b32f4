"""The files of a data set: from the user's folder, from the cache, or downloaded into the cache.

A download goes into a temporary folder, which is renamed when it is complete, under a lock. So processes that start
together download only once, and no process reads an incomplete data set.
"""

from __future__ import annotations

import logging
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quantexp.config import DataRequest, DataSource
from quantexp.system.cache import cache_folder, locked
from quantexp.system.errors import DataError

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0  # a working network answers much sooner; a blocked one may take minutes to fail
STALL_SECONDS = 30.0


class Source(Protocol):
    """The source of a task: data files, or code of the user."""

    def check(self, request: DataRequest) -> None:
        """Check, in seconds and without torch, that the source is available. Raises DataError or ConfigError."""

    def stamp(self, request: DataRequest) -> object:
        """Return a value that changes when the source changes. Raises DataError or ConfigError."""

    def locate(self, request: DataRequest) -> tuple[Path, str] | None:
        """Return the folder of the files, and in words where it is; None if the source has no files."""


@dataclass(frozen=True)
class DataFiles:
    """The files of one data set: how to check that they are complete, and how to download them.

    `missing` returns the first file that a folder lacks, or None; `download` fills an empty folder or raises; `hosts`
    returns the addresses of the servers, at least one of which must answer before a download starts.
    """

    name: str
    missing: Callable[[Path], str | None]
    download: Callable[[Path], None]
    hosts: Callable[[], list[str]]

    def check(self, request: DataRequest) -> None:
        """Check, in seconds, that the files are there or that a server answers. Raises DataError."""
        if request.source is not DataSource.full:
            return
        if request.data_dir is not None:
            self.locate(request)
        elif self.missing(cache_folder(request.cache_dir, "data") / self.name) is not None:
            self._check_hosts()

    def locate(self, request: DataRequest) -> tuple[Path, str]:
        """Return the folder that holds the files, and in words where it is; download them if they are not there.

        Raises:
            DataError: If `data_dir` is set and lacks a file, or the download fails.
        """
        if request.data_dir is not None:
            folder = Path(request.data_dir).expanduser() / self.name
            if (lacking := self.missing(folder)) is not None:
                raise DataError(
                    f"data_dir={request.data_dir} must hold {self.name}/{lacking}, which is not there; "
                    "correct data_dir (its default is the environment variable QUANTEXP_DATA_DIR), "
                    "or use data_dir=null to read from the cache or download"
                )
            return folder, f"data_dir {request.data_dir}"
        folder = cache_folder(request.cache_dir, "data") / self.name
        if self.missing(folder) is not None:
            with locked(folder.with_name(f"{self.name}.lock"), f"another process is downloading {self.name}"):
                if self.missing(folder) is not None:  # no other process downloaded it while this one waited
                    self._fetch(folder)
        return folder, f"cache {folder}"

    def stamp(self, request: DataRequest) -> tuple[object, ...]:
        """Return the paths, sizes and times of the files. Raises DataError as `locate` does."""
        if request.source is DataSource.sample:
            return ("sample",)
        folder, origin = self.locate(request)
        files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
        return (origin, *((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in files))

    def _fetch(self, folder: Path) -> None:
        self._check_hosts()
        log.info("download  %s into %s", self.name, folder)
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=folder.parent) as scratch:
            fresh = Path(scratch) / self.name
            fresh.mkdir()
            try:
                with stall_limit():
                    self.download(fresh)
            except DataError:
                raise
            except Exception as error:  # the errors of downloaders are not documented
                raise DataError(self._out_of_reach(" ".join(str(error).split()))) from error
            if (lacking := self.missing(fresh)) is not None:
                raise DataError(self._out_of_reach(f"the download lacks {lacking}"))
            if folder.exists():  # incomplete, as checked above
                shutil.rmtree(folder)
            fresh.rename(folder)

    def _check_hosts(self) -> None:
        if not reachable(self.hosts()):
            raise DataError(self._out_of_reach("there is no network"))

    def _out_of_reach(self, reason: str) -> str:
        return (
            f"{self.name} is not in the cache and cannot be downloaded ({reason}). There are two alternatives: "
            "data_dir=FOLDER reads your own copy, data=sample uses the small data set in the package"
        )


def reachable(addresses: Sequence[str], seconds: float = PROBE_SECONDS) -> bool:
    """Return whether a server answers at one of the addresses within `seconds`, through the proxy if one is set.

    All addresses are tried at once, each in a thread, because name resolution ignores timeouts.
    """
    import http.client
    import urllib.error
    import urllib.request

    answers: queue.Queue[bool] = queue.Queue()

    def ask(address: str) -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds):
                answers.put(True)
        except urllib.error.HTTPError:
            answers.put(True)  # the server answers, even if with an error
        except (OSError, ValueError, http.client.HTTPException):
            answers.put(False)

    for address in addresses:
        threading.Thread(target=ask, args=(address,), daemon=True).start()
    until = time.monotonic() + seconds
    for _ in addresses:
        try:
            if answers.get(timeout=max(0.0, until - time.monotonic())):
                return True
        except queue.Empty:
            break
    return False


def read_bytes(path: Path) -> bytes:
    """Return the content of a data file. Raises DataError naming it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


@contextmanager
def stall_limit(seconds: float = STALL_SECONDS) -> Iterator[None]:
    """Set the default timeout of sockets: torchvision opens its downloads without a timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

"""Where the files of a data set come from: the user's folder, the cache, or a download into the cache.

A download goes into a folder of its own that is renamed when it is whole, under a lock, so that
processes that start together download once and no one ever reads half a data set.
"""

from __future__ import annotations

import http.client
import logging
import queue
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quantexp.config import DataRequest, DataSource
from quantexp.system.cache import cache_folder, locked
from quantexp.system.errors import DataError

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0  # a network that is there answers long before; a closed one may block for minutes
STALL_SECONDS = 30.0


class Source(Protocol):
    """What a task is read from."""

    def check(self, request: DataRequest) -> None:
        """Make sure, in seconds and without torch, that it is there. Raises DataError or ConfigError."""

    def stamp(self, request: DataRequest) -> object:
        """Return what changes when it does. Raises as `check`, and as a download."""

    def locate(self, request: DataRequest) -> tuple[Path, str] | None:
        """Return the folder of its files, and in words where that is; None where it has none."""


@dataclass(frozen=True)
class DataFiles:
    """The files of one data set: how to see that they are there, and how to download them.

    `missing` names the first file that a folder lacks, None if it lacks none; `download` fills an empty
    folder or raises; `hosts` gives the addresses of which one must answer before a download is tried.
    """

    name: str
    missing: Callable[[Path], str | None]
    download: Callable[[Path], None]
    hosts: Callable[[], list[str]]

    def check(self, request: DataRequest) -> None:
        """Make sure, in seconds, that the files are at hand or that a server answers. Raises DataError."""
        if request.source is not DataSource.full:
            return
        if request.data_dir is not None:
            self.locate(request)
        elif self.missing(cache_folder(request.cache_dir, "data") / self.name) is not None:
            self._check_hosts()

    def locate(self, request: DataRequest) -> tuple[Path, str]:
        """Return the folder that holds the files, and in words where it is.

        Raises:
            DataError: If `data_dir` is given and lacks a file, or nothing is at hand and the download fails.
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
            with locked(folder.with_name(f"{self.name}.lock"), f"another process downloads {self.name}"):
                if self.missing(folder) is not None:  # nobody downloaded it while we waited
                    self._fetch(folder)
        return folder, f"cache {folder}"

    def stamp(self, request: DataRequest) -> tuple[object, ...]:
        """Return what changes when the files do: where they lie, their sizes and times. Raises as `locate`."""
        if request.source is DataSource.sample:
            return ("sample",)
        folder, origin = self.locate(request)
        known = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
        return (origin, *((str(path), one.st_size, one.st_mtime_ns, one.st_ino) for path, one in known))

    def _fetch(self, folder: Path) -> None:
        self._check_hosts()
        log.info("download  %s into %s", self.name, folder)
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=folder.parent) as scratch:
            fresh = Path(scratch) / self.name
            fresh.mkdir()
            try:
                with _stall_limit(STALL_SECONDS):
                    self.download(fresh)
            except DataError:
                raise
            except Exception as error:  # downloaders document no errors; what they say is passed on
                raise DataError(self._out_of_reach(" ".join(str(error).split()))) from error
            if (lacking := self.missing(fresh)) is not None:
                raise DataError(self._out_of_reach(f"the download lacks {lacking}"))
            if folder.exists():  # lacks files, or we would not be here
                shutil.rmtree(folder)
            fresh.rename(folder)

    def _check_hosts(self) -> None:
        if not reachable(self.hosts()):
            raise DataError(self._out_of_reach("there is no network"))

    def _out_of_reach(self, reason: str) -> str:
        return (
            f"{self.name} is neither in the cache nor can it be downloaded ({reason}). Two ways out: "
            "data_dir=FOLDER reads your own copy, data=sample uses the small data set in the package"
        )


def reachable(addresses: Sequence[str], seconds: float = PROBE_SECONDS) -> bool:
    """Tell whether a server answers at one of the addresses within `seconds`, through the proxy if one is set.

    All are asked at once, in threads of their own, because looking up a name obeys no timeout.
    """
    answers: queue.Queue[bool] = queue.Queue()

    def ask(address: str) -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds):
                answers.put(True)
        except urllib.error.HTTPError:
            answers.put(True)  # it answers, though not to this
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
def _stall_limit(seconds: float) -> Iterator[None]:
    """Let no connection be silent for longer: torchvision opens its downloads without a timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

"""Where data come from: the user's folder, the cache, a download that is whole or absent."""

from __future__ import annotations

import http.server
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import datasets
import pytest

from quantexp import tasks
from quantexp.config import DataRequest, DataSource, Kind, Mnist, Sst2
from quantexp.system.errors import CacheError, DataError
from quantexp.tasks import sources
from quantexp.tasks.files import DataFiles, reachable, read_bytes
from quantexp.tasks.sst2 import parse_tsv


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of these tests are on this machine, whatever proxy it has."""
    monkeypatch.setenv("no_proxy", "*")


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers 200 at / and 404 elsewhere, and says nothing about it."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path in ("/", "") else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """The address of an HTTP server on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def closed() -> Iterator[str]:
    """An address of this machine at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def slow() -> Iterator[str]:
    """An address of this machine at which a connection is taken and answered much too late."""
    over = threading.Event()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(20)

        def answer_late() -> None:
            connection, _ = listening.accept()
            with connection:
                if not over.wait(20):
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

        answering = threading.Thread(target=answer_late)
        answering.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        over.set()
        answering.join()


NAMES = ("first.txt", "second.txt")


def lacking(folder: Path) -> str | None:
    return next((name for name in NAMES if not (folder / name).is_file()), None)


def fill(folder: Path) -> None:
    for name in NAMES:
        (folder / name).write_text(f"the {name}")


def no_download(folder: Path) -> None:
    raise AssertionError("nothing should be downloaded")


@pytest.fixture
def files(server: str) -> Callable[[Callable[[Path], None]], DataFiles]:
    """Make a data set of two files that is downloaded by the given function."""
    return lambda download: DataFiles("things", lacking, download, lambda: [server])


def in_cache(tmp_path: Path) -> list[str]:
    """Return what the data folder of the cache holds, but for the lock."""
    return sorted(path.name for path in (tmp_path / "data").iterdir() if path.suffix != ".lock")


# --- the user's folder -----------------------------------------------------------------------------


def test_files_in_the_users_folder_are_used(tmp_path: Path) -> None:
    (tmp_path / "things").mkdir()
    fill(tmp_path / "things")
    files = DataFiles("things", lacking, no_download, list)
    folder, origin = files.locate(DataRequest(data_dir=str(tmp_path)))
    assert folder == tmp_path / "things"
    assert origin == f"data_dir {tmp_path}"


def test_a_file_that_the_users_folder_lacks_is_named_and_nothing_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "first.txt").touch()
    files = DataFiles("things", lacking, no_download, list)
    with pytest.raises(DataError) as error:
        files.locate(DataRequest(data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache")))
    assert f"data_dir={tmp_path} must hold things/second.txt" in str(error.value)
    assert "QUANTEXP_DATA_DIR" in str(error.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("task", "first"),
    [(Mnist(), "mnist/MNIST/raw/train-images-idx3-ubyte.gz"), (Sst2(), "sst2/train.tsv")],
    ids=["mnist", "sst2"],
)
def test_a_folder_without_the_data_set_is_answered_with_the_file_it_must_hold(
    tmp_path: Path, task: Mnist | Sst2, first: str
) -> None:
    with pytest.raises(DataError, match=f"^data_dir={re.escape(str(tmp_path))} must hold {first}, which is not there"):
        tasks.load(task, Kind.features, DataRequest(data_dir=str(tmp_path)))


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_each_file_of_mnist_is_missed(tmp_path: Path, name: str) -> None:
    raw = tmp_path / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for other in set(sources.MNIST_NAMES.values()) - {name}:
        (raw / f"{other}.gz").touch()
    with pytest.raises(DataError, match=f"must hold mnist/MNIST/raw/{name}.gz"):
        sources.MNIST.locate(DataRequest(data_dir=str(tmp_path)))


def test_the_second_file_of_sst2_is_missed(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.tsv").touch()
    with pytest.raises(DataError, match=r"must hold sst2/dev\.tsv"):
        sources.SST2.locate(DataRequest(data_dir=str(tmp_path)))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path))}: cannot be read"):
        read_bytes(tmp_path)


# --- the cache -------------------------------------------------------------------------------------


def test_files_in_the_cache_are_used(tmp_path: Path) -> None:
    (tmp_path / "data" / "things").mkdir(parents=True)
    fill(tmp_path / "data" / "things")
    files = DataFiles("things", lacking, no_download, list)
    folder, origin = files.locate(DataRequest(cache_dir=str(tmp_path)))
    assert folder == tmp_path / "data" / "things"
    assert origin == f"cache {folder}"


def test_a_download_goes_into_the_cache_and_is_not_repeated(
    tmp_path: Path, files: Callable[[Callable[[Path], None]], DataFiles]
) -> None:
    first, _ = files(fill).locate(DataRequest(cache_dir=str(tmp_path)))
    assert [(first / name).read_text() for name in NAMES] == ["the first.txt", "the second.txt"]
    again, _ = files(no_download).locate(DataRequest(cache_dir=str(tmp_path)))
    assert again == first
    assert in_cache(tmp_path) == ["things"]


def test_the_folder_appears_only_when_the_download_is_whole(
    tmp_path: Path, files: Callable[[Callable[[Path], None]], DataFiles]
) -> None:
    seen: list[bool] = []

    def download(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        fill(folder)
        seen.append((tmp_path / "data" / "things").exists())

    folder, _ = files(download).locate(DataRequest(cache_dir=str(tmp_path)))
    assert seen == [False]
    assert folder.exists()


def test_a_folder_in_the_cache_that_lacks_a_file_is_replaced_as_a_whole(
    tmp_path: Path, files: Callable[[Callable[[Path], None]], DataFiles]
) -> None:
    half = tmp_path / "data" / "things"
    half.mkdir(parents=True)
    (half / "first.txt").write_text("an older version")
    folder, _ = files(fill).locate(DataRequest(cache_dir=str(tmp_path)))
    assert (folder / "first.txt").read_text() == "the first.txt"
    assert lacking(folder) is None


def test_a_download_that_breaks_off_leaves_no_folder_and_the_next_one_starts_afresh(
    tmp_path: Path, files: Callable[[Callable[[Path], None]], DataFiles]
) -> None:
    def broken(folder: Path) -> None:
        (folder / "first.txt").write_text("half of")
        raise RuntimeError("the line\n  is dead")

    request = DataRequest(cache_dir=str(tmp_path))
    with pytest.raises(
        DataError, match=r"things is not in .* \(the line is dead\)\. There are two alternatives"
    ) as error:
        files(broken).locate(request)
    assert isinstance(error.value.__cause__, RuntimeError)
    assert in_cache(tmp_path) == []

    folder, _ = files(fill).locate(request)
    assert (folder / "first.txt").read_text() == "the first.txt"


def test_a_download_that_is_interrupted_leaves_no_folder(
    tmp_path: Path, files: Callable[[Callable[[Path], None]], DataFiles]
) -> None:
    def interrupted(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files(interrupted).locate(DataRequest(cache_dir=str(tmp_path)))
    assert in_cache(tmp_path) == []


def test_a_download_that_lacks_a_file_is_refused_by_its_name(
    tmp_path: Path, files: Callable[[Callable[[Path], None]], DataFiles]
) -> None:
    with pytest.raises(DataError, match=r"\(the download lacks second.txt\)"):
        files(lambda folder: (folder / "first.txt").touch()).locate(DataRequest(cache_dir=str(tmp_path)))
    assert in_cache(tmp_path) == []


def test_what_a_download_says_in_our_own_words_is_passed_on(
    tmp_path: Path, files: Callable[[Callable[[Path], None]], DataFiles]
) -> None:
    def refuse(folder: Path) -> None:
        raise DataError("these are not the rows you asked for")

    with pytest.raises(DataError, match=r"^these are not the rows you asked for$"):
        files(refuse).locate(DataRequest(cache_dir=str(tmp_path)))
    assert in_cache(tmp_path) == []


def test_a_download_may_be_silent_for_a_limited_time_and_the_limit_is_taken_back(
    tmp_path: Path, files: Callable[[Callable[[Path], None]], DataFiles]
) -> None:
    limits: list[float | None] = []

    def download(folder: Path) -> None:
        limits.append(socket.getdefaulttimeout())
        fill(folder)

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77)
    try:
        files(download).locate(DataRequest(cache_dir=str(tmp_path)))
        assert limits == [30]
        assert socket.getdefaulttimeout() == 77
    finally:
        socket.setdefaulttimeout(before)


def test_a_cache_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="cache_dir=FOLDER"):
        DataFiles("things", lacking, no_download, list).locate(DataRequest(cache_dir=str(tmp_path / "file")))


ONE_OF_MANY = """
import sys, time
from pathlib import Path
from quantexp.config import DataRequest
from quantexp.tasks.files import DataFiles

cache, log, server = sys.argv[1:]
names = [f"{i}.txt" for i in range(3)]

def download(folder):
    with open(log, "a") as file:
        file.write("download\\n")
    for name in names:
        time.sleep(0.1)
        (folder / name).write_text(name)

def missing(folder):
    return next((name for name in names if not (folder / name).is_file()), None)

print("ready", flush=True)
sys.stdin.readline()
folder, _ = DataFiles("things", missing, download, lambda: [server]).locate(DataRequest(cache_dir=cache))
print(*((folder / name).read_text() for name in names))
"""


def test_processes_that_start_together_download_once_and_all_read_it_whole(tmp_path: Path, server: str) -> None:
    log = tmp_path / "downloads.log"
    command = [sys.executable, "-c", ONE_OF_MANY, str(tmp_path), str(log), server]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # only now does any of them look for the files
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=60) for process in processes]

    assert [process.returncode for process in processes] == [0] * 4, [errors for _, errors in ends]
    assert [output for output, _ in ends] == ["0.txt 1.txt 2.txt\n"] * 4
    assert log.read_text() == "download\n"
    assert in_cache(tmp_path) == ["things"]


# --- no network ------------------------------------------------------------------------------------


def test_without_any_host_to_ask_both_ways_out_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        DataFiles("things", lacking, no_download, list).locate(DataRequest(cache_dir=str(tmp_path)))
    assert "things is not in the cache and cannot be downloaded (there is no network)" in str(error.value)
    assert "data_dir=" in str(error.value)
    assert "data=sample" in str(error.value)
    assert in_cache(tmp_path) == []


@pytest.mark.parametrize("files", [sources.MNIST, sources.SST2], ids=["mnist", "sst2"])
def test_a_data_set_whose_hosts_do_not_answer_is_out_of_reach(tmp_path: Path, closed: str, files: DataFiles) -> None:
    files = replace(files, hosts=lambda: [closed, closed])
    with pytest.raises(DataError, match=rf"^{files.name} is not in the cache .*there is no network.*data=sample"):
        files.locate(DataRequest(cache_dir=str(tmp_path)))


def test_one_host_that_answers_is_enough(tmp_path: Path, closed: str, server: str) -> None:
    folder, _ = DataFiles("things", lacking, fill, lambda: [closed, server]).locate(
        DataRequest(cache_dir=str(tmp_path))
    )
    assert lacking(folder) is None


def test_a_server_that_answers_is_reachable(server: str) -> None:
    assert reachable([server]) is True


def test_a_server_that_answers_with_an_error_is_reachable(server: str) -> None:
    assert reachable([f"{server}/nothing/here"]) is True


def test_a_port_at_which_nobody_listens_is_not_reachable(closed: str) -> None:
    assert reachable([closed]) is False


def test_a_server_that_does_not_answer_within_the_limit_is_given_up(slow: str) -> None:
    assert reachable([slow], seconds=0.3) is False


def test_a_server_that_does_not_answer_holds_up_no_other(server: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(20)
        assert reachable([f"http://127.0.0.1:{listening.getsockname()[1]}", server], seconds=10) is True
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(20)
            assert connection.recv(1024).startswith(b"HEAD ")
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # nothing more, and not closed: its answer is still awaited
                connection.recv(1)


def test_a_name_that_is_looked_up_for_too_long_is_given_up(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, over = socket.getaddrinfo, threading.Event()

    def late(host: str, *arguments: Any, **keywords: Any) -> Any:
        over.wait(20)
        return real("127.0.0.1", *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", late)
    assert reachable([server.replace("127.0.0.1", "name.example")], seconds=0.3) is False
    over.set()


@pytest.mark.parametrize("address", ["no address", "ftp:/", "http://a b", "http://127.0.0.1:port", ""])
def test_what_is_no_address_is_not_reachable(address: str, server: str) -> None:
    assert reachable([address]) is False
    assert reachable([address, server]) is True


def test_no_address_is_reachable_where_there_is_none() -> None:
    assert reachable([]) is False


def test_a_server_that_speaks_no_http_is_not_reachable_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(20)

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        assert reachable([f"http://127.0.0.1:{listening.getsockname()[1]}"]) is False
        greeting.join()
    assert capfd.readouterr().err == ""


# --- the check before a run ------------------------------------------------------------------------


def no_hosts() -> list[str]:
    raise AssertionError("no server should be asked")


def test_the_check_asks_nobody_where_files_are_at_hand(tmp_path: Path) -> None:
    (tmp_path / "data" / "things").mkdir(parents=True)
    fill(tmp_path / "data" / "things")
    files = DataFiles("things", lacking, no_download, no_hosts)
    files.check(DataRequest(cache_dir=str(tmp_path)))
    files.check(DataRequest(data_dir=str(tmp_path / "data")))
    with pytest.raises(AssertionError, match="no server should be asked"):  # this is what asking looks like
        files.check(DataRequest(cache_dir=str(tmp_path / "empty")))


@pytest.mark.parametrize("task", [Mnist(), Sst2()], ids=["mnist", "sst2"])
def test_the_check_of_the_sample_looks_for_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Mnist | Sst2
) -> None:
    for name in ("MNIST", "SST2"):
        monkeypatch.setattr(sources, name, replace(getattr(sources, name), hosts=no_hosts))
    tasks.sources_of(task).check(DataRequest(DataSource.sample, data_dir=str(tmp_path), cache_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "first"), [(Mnist(), "mnist/MNIST/raw/train-images-idx3-ubyte.gz"), (Sst2(), "sst2/train.tsv")]
)
def test_the_check_names_a_file_that_the_users_folder_lacks(tmp_path: Path, task: Mnist | Sst2, first: str) -> None:
    with pytest.raises(DataError, match=f"must hold {first}, which is not there"):
        tasks.sources_of(task).check(DataRequest(data_dir=str(tmp_path)))


def test_the_check_refuses_an_empty_cache_without_network(tmp_path: Path, closed: str) -> None:
    files = DataFiles("things", lacking, no_download, lambda: [closed])
    with pytest.raises(DataError, match=r"there is no network.*data_dir=FOLDER.*data=sample"):
        files.check(DataRequest(cache_dir=str(tmp_path)))


def test_the_check_is_content_with_a_server_that_answers_and_downloads_nothing(tmp_path: Path, server: str) -> None:
    DataFiles("things", lacking, no_download, lambda: [server]).check(DataRequest(cache_dir=str(tmp_path)))
    assert in_cache(tmp_path) == []


def test_the_hosts_of_mnist_are_the_web_addresses_from_which_torchvision_downloads() -> None:
    from torchvision.datasets import MNIST

    hosts = sources.MNIST.hosts()
    assert hosts == list(MNIST.mirrors)
    for address in hosts:
        assert urlparse(address).scheme in ("http", "https")
        assert urlparse(address).hostname


def test_the_host_of_sst2_is_a_web_address_unless_the_hub_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    [address] = sources.SST2.hosts()
    assert urlparse(address).scheme in ("http", "https")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert sources.SST2.hosts() == []


# --- the download of SST-2 -------------------------------------------------------------------------

TRAIN = [("a fine film ", 1), ("caf\u00e9 noir ", 1), ('dull , " really " dull ', 0)]
VALIDATION = [("not my thing ", 0), ("my thing ", 1)]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Stand in for the hub with five sentences; returns what was asked of it."""
    asked: list[dict[str, Any]] = []

    def split(rows: list[tuple[str, int]]) -> datasets.Dataset:
        sentences, labels = zip(*rows, strict=True)
        return datasets.Dataset.from_dict(
            {"idx": list(range(len(rows))), "sentence": list(sentences), "label": list(labels)}
        )

    def load_dataset(name: str, revision: str, cache_dir: str) -> datasets.DatasetDict:
        asked.append({"name": name, "revision": revision})
        Path(cache_dir).mkdir()
        Path(cache_dir, "archive.parquet").touch()
        return datasets.DatasetDict({"train": split(TRAIN), "validation": split(VALIDATION)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(sources, "SST2_ROWS", {"train": 3, "dev": 2})
    monkeypatch.chdir(tmp_path)
    return asked


def test_sst2_is_downloaded_as_files_that_parse_to_the_same_sentences(
    hub: list[dict[str, Any]], tmp_path: Path, server: str
) -> None:
    files = replace(sources.SST2, hosts=lambda: [server])
    folder, _ = files.locate(DataRequest(cache_dir=str(tmp_path)))
    assert sorted(path.name for path in folder.iterdir()) == ["dev.tsv", "train.tsv"]  # no leftovers of the hub
    for name, rows in (("train", TRAIN), ("dev", VALIDATION)):
        path = folder / f"{name}.tsv"
        expected = [(sentence.strip(), label) for sentence, label in rows]
        assert parse_tsv(path.read_bytes(), path) == expected
    assert (folder / "dev.tsv").read_bytes() == b"sentence\tlabel\nnot my thing \t0\nmy thing \t1\n"


def test_sst2_is_asked_for_at_one_pinned_revision(hub: list[dict[str, Any]], tmp_path: Path, server: str) -> None:
    replace(sources.SST2, hosts=lambda: [server]).locate(DataRequest(cache_dir=str(tmp_path)))
    [asked] = hub
    assert asked["name"] == "stanfordnlp/sst2"
    assert len(bytes.fromhex(asked["revision"])) == 20  # the SHA-1 of a commit, which no one can move


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ({"train": 4, "dev": 2}, "train must have 4 rows, the download has 3"),
        ({"train": 3, "dev": 1}, "dev must have 1 rows, the download has 2"),
    ],
    ids=["train", "dev"],
)
def test_a_download_of_sst2_with_another_number_of_rows_is_refused(
    hub: list[dict[str, Any]],
    tmp_path: Path,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    rows: dict[str, int],
    fault: str,
) -> None:
    monkeypatch.setattr(sources, "SST2_ROWS", rows)
    with pytest.raises(DataError, match=fault):
        replace(sources.SST2, hosts=lambda: [server]).locate(DataRequest(cache_dir=str(tmp_path)))
    assert in_cache(tmp_path) == []


def test_the_rows_that_a_download_must_have_are_those_that_the_help_names() -> None:
    named = f"{sources.SST2_ROWS['train']:,} to train on, {sources.SST2_ROWS['dev']} to test"
    assert named == "67,349 to train on, 872 to test"
    assert named in str(Sst2.__doc__)


def test_a_folder_that_hides_the_data_set_on_the_hub_is_named(
    hub: list[dict[str, Any]], tmp_path: Path, server: str
) -> None:
    (tmp_path / "stanfordnlp" / "sst2").mkdir(parents=True)
    with pytest.raises(DataError, match="stanfordnlp/sst2 hides the data set"):
        replace(sources.SST2, hosts=lambda: [server]).locate(DataRequest(cache_dir=str(tmp_path)))
    assert hub == []

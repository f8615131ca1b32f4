"""A result survives: whatever its store does and wherever its process is killed, it is delivered, and once."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantexp.config.tracking import Local, Server, Tracking
from quantexp.system.errors import TrackingError
from quantexp.tracking.delivery import deliver_folders, deliver_kept, deliver_waiting
from quantexp.tracking.names import ERROR, PARENT, RESULT
from quantexp.tracking.outbox import RECORD_FILE, KeptRun, Record, folders, keep, outbox_of, read, take, waiting
from quantexp.tracking.processes import close_orphans
from quantexp.tracking.run import Dataset, Point, TrackedRun, track
from quantexp.tracking.store import Store, open_store

DEAD = "http://127.0.0.1:9"
CALLS = ("log_batch", "log_inputs", "log_files", "set_terminated")  # of a delivery, each once
POINTS = (Point("accuracy", 0.5), Point("train/loss", 2.0, 1), Point("train/loss", 1.0, 2), Point("nan", float("nan")))


class Killed(BaseException):
    """The process ends here: nothing of ours runs after it."""


@pytest.fixture
def tracking(workdir: Path) -> Tracking:
    """A store of its own, with the outbox beside it."""
    return Local(keep_in=str(workdir / "cache"))


@pytest.fixture
def store(tracking: Tracking) -> Store:
    """The store."""
    return open_store(tracking)


class Faulty:
    """Lets calls through until a number of them were made; then each fails, before or after it was carried out."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        self.passes: float = float("inf")
        self.error: type[BaseException] = ConnectionError
        self.carried_out = False
        for name in CALLS:
            owner: Any = store if name == "log_files" else store.client
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def fail(self, passes: int, error: type[BaseException], carried_out: bool) -> None:
        self.made, self.passes, self.error, self.carried_out = 0, passes, error, carried_out

    def _wrapped(self, call: Any) -> Any:
        def made(*arguments: Any, **named: Any) -> Any:
            self.made += 1
            if self.made <= self.passes:
                return call(*arguments, **named)
            if self.carried_out:
                call(*arguments, **named)
            raise self.error("planted")

        return made


def record_result(store: Store, tracking: Tracking, faulty: Faulty | None = None, **fault: Any) -> TrackedRun:
    """Record a result with everything that a run has; faults begin when the work is done."""
    with track(store, "run", {"seed": 0}, {"given": "tag"}, tracking=tracking) as run:
        with run.files() as folder:
            (folder / "report.json").write_text("{}", encoding="utf-8")
            (folder / "model").mkdir()
            (folder / "model" / "state").write_bytes(b"\0" * 1000)
        rows = {"train": 2, "test": 1}
        run.add(POINTS, {"quantexp.identity": "abc"}, Dataset("mnist", "0123", "sample", rows, "test"))
        if faulty is not None:
            faulty.fail(**fault)
    return run


def check_complete(store: Store, run_id: str) -> None:
    """Check that the store has one run, with everything once."""
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.info.run_id == run_id
    assert (run.info.status, run.data.params) == ("FINISHED", {"seed": "0"})
    assert {"given": "tag", "quantexp.identity": "abc"}.items() <= run.data.tags.items()
    assert RESULT in run.data.tags and ERROR not in run.data.tags
    for name, steps in {"accuracy": [0], "train/loss": [1, 2], "nan": [0]}.items():
        assert [metric.step for metric in store.client.get_metric_history(run_id, name)] == steps
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["mnist"]
    folder = Path("mlartifacts", run_id, "artifacts")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"report.json", "model/state"}


def kept_in(tracking: Tracking) -> list[Path]:
    return list(folders(outbox_of(tracking)))


# -- delivered ------------------------------------------------------------------------------------------


def test_a_result_that_the_store_takes_leaves_nothing_on_disk(store: Store, tracking: Tracking) -> None:
    run = record_result(store, tracking)
    assert run.kept is None
    check_complete(store, run.run_id)
    assert list(outbox_of(tracking).iterdir()) == []


@pytest.mark.parametrize("carried_out", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("passes", range(len(CALLS)))
def test_a_store_that_goes_away_at_any_step_gets_the_result_later_and_once(
    store: Store, tracking: Tracking, monkeypatch: pytest.MonkeyPatch, passes: int, carried_out: bool
) -> None:
    with monkeypatch.context() as patched:
        faulty = Faulty(store, patched)
        run = record_result(store, tracking, faulty, passes=passes, error=ConnectionError, carried_out=carried_out)
        assert faulty.made == passes + 1  # the fault was met
    assert run.kept is not None and "planted" in run.kept and "python -m quantexp.sync" in run.kept
    assert len(kept_in(tracking)) == 1
    delivered = deliver_waiting(tracking)
    assert (delivered.count, delivered.problems) == (1, ())
    check_complete(store, run.run_id)
    assert kept_in(tracking) == []
    assert deliver_waiting(tracking).count == 0


@pytest.mark.parametrize("carried_out", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("passes", range(len(CALLS)))
def test_a_process_that_is_killed_at_any_step_loses_nothing(
    store: Store, tracking: Tracking, monkeypatch: pytest.MonkeyPatch, passes: int, carried_out: bool
) -> None:
    with monkeypatch.context() as patched:
        faulty = Faulty(store, patched)
        with pytest.raises(Killed):
            record_result(store, tracking, faulty, passes=passes, error=Killed, carried_out=carried_out)
    (run,) = store.client.search_runs([store.experiment_id])
    if run.info.status == "RUNNING" and passes % 2:  # another process may close it before the result is delivered
        store.client.set_tag(run.info.run_id, ERROR, "its process was killed")
        store.client.set_terminated(run.info.run_id, "KILLED")
    for attempt in range(5):  # and the process that delivers it is killed at any step, too
        with monkeypatch.context() as patched:
            faulty = Faulty(store, patched)
            faulty.fail(attempt, Killed, carried_out)
            kept = take(kept_in(tracking)[0])
            assert kept is not None
            try:
                deliver_kept(kept, store)
            except Killed:
                kept.release()  # the operating system does so
            else:
                break
    deliver_waiting(tracking)
    check_complete(store, run.info.run_id)
    assert kept_in(tracking) == []


def test_a_result_is_delivered_before_runs_of_killed_processes_are_closed(
    store: Store, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(Killed):
        record_result(store, tracking, Faulty(store, patched), passes=0, error=Killed, carried_out=False)
    deliver_waiting(tracking)
    close_orphans(store)
    assert [run.status for run in store.search("")] == ["FINISHED"]


def test_a_run_that_fails_while_the_store_is_away_arrives_with_its_error(
    store: Store, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        monkeypatch.context() as patched,
        pytest.raises(ValueError, match="of the run"),
        track(store, "run", {}, tracking=tracking),
    ):
        Faulty(store, patched).fail(0, ConnectionError, False)
        raise ValueError("of the run")
    assert [run.status for run in store.search("")] == ["RUNNING"]
    deliver_waiting(tracking)
    (run,) = store.search("")
    assert (run.status, run.tags[ERROR]) == ("FAILED", "ValueError: of the run")


def test_a_run_may_begin_while_its_store_is_away(workdir: Path, store: Store, tracking: Tracking) -> None:
    away = Server(uri=DEAD, keep_in=tracking.keep_in)
    with track(None, "study", {"seed": 0}, tracking=away) as study:
        assert study.where() == []
        with track(None, "variant", {"seed": 1}, {PARENT: study.run_id}, tracking=away) as variant:
            variant.add([Point("accuracy", 0.5)])
    assert variant.kept and study.kept
    assert sorted(record.name for record in waiting(outbox_of(tracking))) == ["study", "variant"]
    assert deliver_waiting(tracking).count == 0  # they are of another store
    delivered = deliver_folders(sorted(kept_in(tracking), key=lambda folder: read(folder).started_ms), tracking)
    assert (delivered.count, delivered.problems) == (2, ())
    runs = {run.name: run for run in store.search("")}
    assert runs.keys() == {"study", "variant"}
    assert {run.status for run in runs.values()} == {"FINISHED"}
    assert runs["variant"].tags[PARENT] == runs["study"].run_id
    assert (runs["variant"].metrics, runs["variant"].params) == ({"accuracy": 0.5}, {"seed": "1"})


def test_what_a_study_records_on_its_way_is_delivered_when_the_store_is_back(
    store: Store, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with track(store, "study", {}, tracking=tracking) as run:
        run.log([Point("bits", 8, 1)])
        with monkeypatch.context() as patched:
            Faulty(store, patched).fail(0, ConnectionError, False)
            run.log([Point("bits", 7, 2)])
            run.log_text("outcomes.json", "[]")
        assert [record.status for record in waiting(outbox_of(tracking))] == [None]
        run.log([Point("bits", 6, 3)])
        assert waiting(outbox_of(tracking)) == []
    history = store.client.get_metric_history(run.run_id, "bits")
    assert [(metric.step, metric.value) for metric in history] == [(1, 8), (2, 7), (3, 6)]
    assert Path("mlartifacts", run.run_id, "artifacts", "outcomes.json").read_text() == "[]"


# -- what is not delivered ------------------------------------------------------------------------------


@pytest.fixture
def kept(store: Store, tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A result that waits: the id of its run, and its folder."""
    with monkeypatch.context() as patched:
        run = record_result(store, tracking, Faulty(store, patched), passes=0, error=ConnectionError, carried_out=False)
    yield run.run_id, kept_in(tracking)[0]


def test_a_result_is_plain_files(kept: tuple[str, Path]) -> None:
    record = json.loads((kept[1] / RECORD_FILE).read_text(encoding="utf-8"))
    assert (record["name"], record["status"], record["run_id"]) == ("run", "FINISHED", kept[0])
    assert (kept[1] / "files" / "report.json").read_text() == "{}"


def test_no_password_is_kept(workdir: Path) -> None:
    away = Server(uri="http://user:secret@127.0.0.1:9", keep_in=str(workdir / "cache"))
    with track(None, "run", {}, tracking=away) as run:
        pass
    assert run.kept and "secret" not in run.kept
    assert "secret" not in (kept_in(away)[0] / RECORD_FILE).read_text(encoding="utf-8")


def test_a_result_that_another_process_works_on_is_left_to_it(
    store: Store, tracking: Tracking, kept: tuple[str, Path]
) -> None:
    other = take(kept[1])
    assert other is not None
    assert take(kept[1]) is None
    assert deliver_waiting(tracking).count == 0
    other.release()
    assert deliver_waiting(tracking).count == 1
    check_complete(store, kept[0])


def test_a_run_that_another_process_resumed_since_is_left_as_it_is(
    store: Store, tracking: Tracking, kept: tuple[str, Path]
) -> None:
    store.client.set_tag(kept[0], "quantexp.process", "of another process")
    store.client.set_terminated(kept[0], "FINISHED")
    deliver_waiting(tracking)
    (run,) = store.search("")
    assert run.metrics == {}
    assert kept_in(tracking) == []


def test_a_deleted_run_is_said_with_the_repair(store: Store, tracking: Tracking, kept: tuple[str, Path]) -> None:
    store.client.delete_run(kept[0])
    delivered = deliver_waiting(tracking)
    assert delivered.count == 0
    assert f"mlflow runs restore --run-id {kept[0]}" in delivered.problems[0]
    store.client.restore_run(kept[0])
    assert deliver_waiting(tracking).count == 1
    check_complete(store, kept[0])


def test_a_store_that_lost_the_run_gets_it_anew(
    tmp_path_factory: pytest.TempPathFactory,
    store_template: Path,
    tracking: Tracking,
    kept: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("restored"))  # here `tracking` is another store
    Path("mlflow.db").write_bytes(store_template.read_bytes())
    assert deliver_folders([kept[1]], tracking).count == 1
    (run,) = open_store(tracking).search("")
    assert (run.status, run.metrics["accuracy"], run.params) == ("FINISHED", 0.5, {"seed": "0"})
    assert "host" in run.tags


@pytest.mark.parametrize(
    ("content", "told"),
    [("not JSON", "Invalid JSON"), ('{"format": 1}', "Field required"), ('{"format": 9}', "Field required")],
    ids=["text", "empty", "format"],
)
def test_a_damaged_record_is_said_and_the_others_are_delivered(
    store: Store, tracking: Tracking, kept: tuple[str, Path], content: str, told: str
) -> None:
    damaged = outbox_of(tracking) / "damaged"
    damaged.mkdir()
    (damaged / RECORD_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(TrackingError, match=told):
        take(damaged)
    assert deliver_waiting(tracking).count == 1
    check_complete(store, kept[0])


def test_a_record_of_another_format_is_refused(kept: tuple[str, Path]) -> None:
    path = kept[1] / RECORD_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}), encoding="utf-8")
    with pytest.raises(TrackingError, match="format 9, this version reads 1"):
        read(kept[1])


def test_a_link_in_a_kept_result_is_not_followed(kept: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (kept[1] / "files" / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(TrackingError, match=r"plain files only, .*notes\.txt is a link"):
        read(kept[1])


def test_a_folder_without_a_record_is_the_rest_of_a_killed_process_and_removed(tracking: Tracking) -> None:
    record = Record("sqlite:////x", "quantexp", "run", "", 0)
    begun: KeptRun = keep(outbox_of(tracking), record)
    (begun.files / "report.json").write_text("{}", encoding="utf-8")
    assert take(begun.folder) is None  # its process is at work
    assert begun.folder.is_dir()
    deliver_waiting(tracking)
    assert begun.folder.is_dir()
    begun.release()
    deliver_waiting(tracking)
    assert kept_in(tracking) == []


def test_no_half_of_a_result_is_recorded(store: Store, tracking: Tracking) -> None:
    with (
        pytest.raises(TrackingError, match=r"the files of run cannot be written \(No space left.*free space"),
        track(store, "run", {}, tracking=tracking) as run,
    ):
        run.log_text("config.yaml", "seed: 0")
        with run.files() as folder:
            (folder / "report.json").write_text("{}", encoding="utf-8")
            (folder / "model").mkdir()
            raise OSError(errno.ENOSPC, "No space left on device")
    assert [found.status for found in store.search("")] == ["FAILED"]
    assert [path.name for path in Path("mlartifacts", run.run_id, "artifacts").iterdir()] == ["config.yaml"]
    assert kept_in(tracking) == []


def test_a_store_that_answers_takes_a_result_that_no_folder_takes(
    store: Store, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with track(store, "run", {}, tracking=tracking) as run:
        run.add([Point("accuracy", 0.5)])
        monkeypatch.setattr("quantexp.tracking.open_run.keep", full)
    (found,) = store.search("")
    assert (found.status, found.metrics) == ("FINISHED", {"accuracy": 0.5})


def test_what_neither_a_folder_nor_the_store_takes_is_an_error(
    store: Store, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(TrackingError, match=r"planted.*\n.*cannot be kept on disk either \(No space left"),
        track(store, "run", {}, tracking=tracking),
    ):
        Faulty(store, monkeypatch).fail(0, ConnectionError, False)
        monkeypatch.setattr("quantexp.tracking.open_run.keep", full)


def test_a_result_is_kept_elsewhere_if_the_cache_is_not_writable(
    store: Store, tracking: Tracking, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "file").touch()
    unwritable = Local(keep_in=str(workdir / "file"))
    with monkeypatch.context() as patched:
        faulty = Faulty(store, patched)
        run = record_result(store, unwritable, faulty, passes=0, error=ConnectionError, carried_out=False)
    assert run.kept is not None
    folder = Path(run.kept.rpartition("python -m quantexp.sync ")[2])
    assert folder.is_dir() and not folder.is_relative_to(workdir)
    assert deliver_folders([folder], tracking).count == 1
    check_complete(store, run.run_id)

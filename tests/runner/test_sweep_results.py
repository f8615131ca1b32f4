"""A sweep in the store: its parent run, what stands there when it goes on, and what is read back."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quantexp.analysis.best import best
from quantexp.config import Experiment, Mlp, Mnist, NoQuant, Retry
from quantexp.config.tracking import Local
from quantexp.mission import RunResult, run
from quantexp.reports.sweep_table import search_notes
from quantexp.results.sweep import SweepResult, UnsupportedEntry
from quantexp.runner.identity import configuration_digest, identity_of
from quantexp.runner.jobs import Ongoing
from quantexp.runner.objective import objectives_of
from quantexp.runner.sweep_results import Before, log_unsupported, read_before, read_sweep
from quantexp.runner.tracked import log_result
from quantexp.system.errors import TrackingError, TrainingError
from quantexp.tracking import sweeps
from quantexp.tracking.names import COMMAND, CONFIGURATION, ERROR, INTERRUPTED, KIND, PARENT, SWEEP
from quantexp.tracking.run import track
from quantexp.tracking.store import Store, open_store, read_store


@pytest.fixture
def store(workdir: Path) -> Store:
    return open_store(Local())


@pytest.fixture
def experiment(sample: Callable[..., Experiment]) -> Experiment:
    return sample(task=Mnist(hidden=[8]), model=Mlp(hidden=[8]), quant=NoQuant(), batch_size=1)


@pytest.fixture
def outcome(experiment: Experiment) -> RunResult:
    return run(experiment)


def child(store: Store, parent: str, experiment: Experiment, outcome: RunResult | None) -> str:
    """Record a run of a sweep that finished with `outcome`, or failed if there is none; return its id."""
    tags = {PARENT: parent, CONFIGURATION: configuration_digest(experiment)}
    opened = track(store, f"seed {experiment.seed}", {"seed": experiment.seed, "quant": "none"}, tags)
    if outcome is None:
        with pytest.raises(TrainingError), opened as tracked:
            raise TrainingError("the loss became nan")
        return tracked.run_id
    with opened as tracked:
        log_result(tracked, outcome, identity_of(experiment, outcome.report.data.fingerprint))
    return tracked.run_id


def begin(store: Store, name: str, command: str = "", *, resume: bool = True) -> tuple[str, Before]:
    """Open a sweep in the store; the id of its parent run, and what it held before."""
    parent = sweeps.begin(store, name, command, resume)
    return parent, read_before(store, parent)


def read(name: str) -> SweepResult:
    """Read a sweep as the command does that makes its report."""
    with read_store(None, "quantexp") as store:
        return read_sweep(store, name)


def test_the_same_name_goes_on_with_the_same_parent(store: Store) -> None:
    first, before = begin(store, "night", "python -m quantexp -m seed=0,1")
    assert (before.done, before.failed) == ({}, frozenset())
    sweeps.end(store, first, "KILLED", "a note", None)
    again, _ = begin(store, "night", "python -m quantexp -m seed=0,1,2")
    other, _ = begin(store, "day", "python -m quantexp -m seed=0")
    anew, _ = begin(store, "night", "python -m quantexp -m seed=0", resume=False)
    assert again == first
    assert len({first, other, anew}) == 3
    parent = store.client.get_run(first)
    assert (parent.info.status, parent.info.run_name) == ("RUNNING", "sweep night")
    assert parent.data.tags[COMMAND] == "python -m quantexp -m seed=0,1,2"
    assert parent.data.params == {}  # else it would stand among the runs of the saved view


def test_what_is_done_and_what_failed_is_known_when_a_sweep_goes_on(
    store: Store, experiment: Experiment, outcome: RunResult
) -> None:
    parent, _ = begin(store, "night")
    child(store, parent, experiment, outcome)
    child(store, parent, replace(experiment, seed=1), None)
    _, before = begin(store, "night")
    assert before.done == {identity_of(experiment, outcome.report.data.fingerprint).digest: "seed 0"}
    assert before.failed == {configuration_digest(replace(experiment, seed=1))}
    _, anew = begin(store, "night", resume=False)
    assert (anew.done, anew.failed) == ({}, frozenset())


def test_a_sweep_is_read_back_with_reports_and_errors(store: Store, experiment: Experiment, outcome: RunResult) -> None:
    parent, _ = begin(store, "night", "python -m quantexp -m seed=0,1")
    done = child(store, parent, experiment, outcome)
    failed = child(store, parent, replace(experiment, seed=1), None)
    sweeps.log_state(store, parent, done=1, failed=1, left=3)
    for name in ("night", parent):
        sweep = read(name)
        assert (sweep.name, sweep.command, sweep.left) == ("night", "python -m quantexp -m seed=0,1", 3)
        assert [entry.run_id for entry in sweep.entries] == [done, failed]
        assert sweep.entries[0].report == outcome.report
        assert sweep.entries[0].settings == {"seed": "0", "quant": "none"}
        assert sweep.entries[1].error == "TrainingError: the loss became nan"
        assert sweep.reports == (outcome.report,)
        assert sweep.failed == (sweep.entries[1],)


def test_a_sweep_of_two_hosts_is_read_as_one(store: Store, experiment: Experiment, outcome: RunResult) -> None:
    here, _ = begin(store, "night")
    first = child(store, here, experiment, outcome)
    tags = {KIND: "sweep", SWEEP: "night", "host": "elsewhere"}
    there = store.client.create_run(store.experiment_id, run_name="sweep night", tags=tags).info.run_id
    elsewhere = replace(outcome, report=replace(outcome.report, host="elsewhere"))
    second = child(store, there, experiment, elsewhere)
    sweep = read("night")
    assert {entry.run_id for entry in sweep.entries} == {first, second}
    assert {report.host for report in sweep.reports} == {outcome.report.host, "elsewhere"}
    again, before = begin(store, "night")
    assert again == here  # each host goes on with its own
    assert list(before.done.values()) == ["seed 0"]


def test_a_combination_that_was_repeated_counts_once_by_its_last_success(
    store: Store, experiment: Experiment, outcome: RunResult
) -> None:
    parent, _ = begin(store, "night")
    child(store, parent, experiment, None)
    kept = child(store, parent, experiment, outcome)
    child(store, parent, experiment, None)
    sweep = read("night")
    assert [entry.run_id for entry in sweep.entries] == [kept]


def test_what_was_killed_is_neither_done_nor_failed(store: Store, experiment: Experiment) -> None:
    parent, _ = begin(store, "night")
    tags = {PARENT: parent, CONFIGURATION: configuration_digest(experiment)}
    with pytest.raises(KeyboardInterrupt), track(store, "stopped", {}, tags):
        raise KeyboardInterrupt
    assert read("night").entries == ()
    _, before = begin(store, "night")
    assert (before.done, before.failed) == ({}, frozenset())


@pytest.mark.parametrize("content", ['{"task": "mnist"}', "", None], ids=["another version", "empty", "gone"])
def test_a_run_whose_report_cannot_be_read_is_neither_done_nor_failed(
    store: Store, experiment: Experiment, outcome: RunResult, content: str | None
) -> None:
    parent, _ = begin(store, "night")
    run_id = child(store, parent, experiment, outcome)
    path = Path(f"mlartifacts/{run_id}/artifacts/report.json")
    path.unlink() if content is None else path.write_text(content)
    sweep = read("night")
    assert (sweep.entries, sweep.failed) == ((), ())
    assert [(one.run_id, one.name) for one in sweep.unreadable] == [(run_id, "seed 0")]
    assert f"report.json of run {run_id} cannot be read" in sweep.unreadable[0].reason
    _, before = begin(store, "night")
    assert (before.done, before.failed, before.unreadable) == ({}, frozenset(), sweep.unreadable)


def test_of_several_runs_of_a_combination_the_last_that_can_be_read_counts(
    store: Store, experiment: Experiment, outcome: RunResult
) -> None:
    parent, _ = begin(store, "night")
    kept = child(store, parent, experiment, outcome)
    lost = child(store, parent, experiment, outcome)
    Path(f"mlartifacts/{lost}/artifacts/report.json").unlink()
    child(store, parent, experiment, None)
    sweep = read("night")
    assert ([entry.run_id for entry in sweep.entries], sweep.unreadable) == ([kept], ())


def absent(flow: str) -> UnsupportedEntry:
    return UnsupportedEntry((f"quant.flow={flow}",), {"quant.flow": flow}, f"quant.flow={flow} is not supported")


def test_what_does_not_exist_is_read_back_with_what_was_asked_for_before(store: Store) -> None:
    parent, _ = begin(store, "night")
    log_unsupported(store, parent, [])
    assert read("night").unsupported == ()
    assert store.client.get_run(parent).data.metrics == {}
    log_unsupported(store, parent, [absent("fx"), absent("pt2e")])
    typed_otherwise = replace(absent("pt2e"), asked=("quant.flow='pt2e'",))
    log_unsupported(store, parent, [typed_otherwise, absent("torchao")])
    assert read("night").unsupported == (absent("fx"), typed_otherwise, absent("torchao"))
    assert store.client.get_run(parent).data.metrics == {"unsupported": 3}


@pytest.mark.parametrize("content", ["", "{}", '[{"asked": "quant.flow=fx"}]'])
def test_a_list_of_what_does_not_exist_that_is_damaged_is_told_and_written_anew(
    store: Store, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    parent, _ = begin(store, "night")
    log_unsupported(store, parent, [absent("fx")])
    Path(f"mlartifacts/{parent}/artifacts/unsupported.json").write_text(content)
    (damaged,) = read("night").unreadable
    assert (damaged.run_id, damaged.name) == (parent, "unsupported.json of sweep night")
    assert f"unsupported.json of run {parent} cannot be read" in damaged.reason
    log_unsupported(store, parent, [absent("fx")])
    assert "the list of unsupported combinations cannot be read" in caplog.text
    assert (read("night").unsupported, read("night").unreadable) == ((absent("fx"),), ())


@pytest.mark.parametrize("name", ["nothing", "no' or '1'='1", "\\", "0" * 32])
def test_a_sweep_that_is_not_there_is_told_with_those_that_are(store: Store, name: str) -> None:
    begin(store, "night")
    with pytest.raises(TrackingError, match=r"has no sweep .*; it has night"):
        read(name)


def test_reading_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match=r"there is no store .*mlflow\.db"):
        read("night")
    assert list(tmp_path.iterdir()) == []


def test_what_another_host_finished_is_not_repeated_if_only_the_machine_differs(
    store: Store, experiment: Experiment, outcome: RunResult
) -> None:
    parent, _ = begin(store, "night")
    done = child(store, parent, experiment, outcome)
    store.client.set_tag(done, "host", "node7")
    _, before = begin(store, "night")
    ongoing = Ongoing("night", parent, None, Retry.unfinished, {}, [], elsewhere=before.elsewhere)
    assert ongoing.reason_to_skip(experiment) == "finished before on node7: seed 0"
    assert ongoing.reason_to_skip(replace(experiment, seed=1)) is None
    store.client.set_tag(done, "torch", "1.0")
    _, older = begin(store, "night")
    assert replace(ongoing, elsewhere=older.elsewhere).reason_to_skip(experiment) is None
    store.client.set_tag(done, "host", platform.node())  # this host has changed, else the identity would match
    _, changed = begin(store, "night")
    assert replace(ongoing, elsewhere=changed.elsewhere).reason_to_skip(experiment) is None


@pytest.mark.parametrize(("error", "rows"), [("its process was killed", 1), (INTERRUPTED, 0)])
def test_a_killed_run_has_a_row_and_an_interrupted_one_remains(
    error: str, rows: int, store: Store, experiment: Experiment
) -> None:
    parent, _ = begin(store, "night")
    killed = child(store, parent, experiment, None)
    store.client.set_terminated(killed, "KILLED")
    store.client.set_tag(killed, ERROR, error)
    assert [entry.error for entry in read("night").entries] == [error] * rows
    _, before = begin(store, "night")
    assert len(before.failed) == rows


def test_a_search_returns_the_recorded_value_and_names_its_best_run(
    store: Store, experiment: Experiment, outcome: RunResult
) -> None:
    parent, _ = begin(store, "night")
    sweeps.log_objectives(store, parent, ["accuracy", "size"])
    small = child(store, parent, experiment, outcome)
    size = replace(outcome.report.baseline.size, state_bytes=2 * outcome.report.baseline.size.state_bytes)
    larger = replace(outcome.report, baseline=replace(outcome.report.baseline, size=size))
    child(store, parent, replace(experiment, seed=1), replace(outcome, report=larger))
    ongoing = Ongoing("night", parent, None, Retry.unfinished, {}, [], objectives=["size", "accuracy"])
    values = objectives_of(ongoing, experiment)
    facts = store.run(small)
    assert values == [facts.metrics["size_mb"], facts.metrics["accuracy"]]
    assert objectives_of(ongoing, replace(experiment, seed=2)) is None
    assert objectives_of(replace(ongoing, objectives=["speedup"]), experiment) is None  # of float alone there is none
    sweep = read("night")
    assert sweep.objectives == ("accuracy", "size")
    assert [one.entry.run_id for one in best(sweep)] == [small]
    (note,) = search_notes(sweep)
    assert note.startswith("On the Pareto front of accuracy, size: seed 0 (accuracy ")
    assert small in note
    (only,) = search_notes(replace(sweep, objectives=("latency_b9",)))
    assert only == "Best by latency_b9: no finished run has a value."
    assert not list(search_notes(replace(sweep, objectives=())))

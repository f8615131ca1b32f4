"""A sweep in the store: its parent run, what stands there when it goes on, and what is read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quantexp.config import Experiment, Mlp, Mnist, NoQuant
from quantexp.config.tracking import Local
from quantexp.mission import Outcome, run
from quantexp.results.sweep import UnsupportedEntry
from quantexp.runner.identity import Identity, configuration_digest
from quantexp.system.errors import TrackingError, TrainingError
from quantexp.tracking import sweeps
from quantexp.tracking.names import COMMAND, CONFIGURATION, IDENTITY, KIND, PARENT, SWEEP
from quantexp.tracking.record import recording
from quantexp.tracking.store import Store, open_store


@pytest.fixture
def store(workdir: Path) -> Store:
    return open_store(Local())


@pytest.fixture
def experiment(sample: Callable[..., Experiment]) -> Experiment:
    return sample(task=Mnist(hidden=[8]), model=Mlp(hidden=[8]), quant=NoQuant(), batch_size=1)


@pytest.fixture
def outcome(experiment: Experiment) -> Outcome:
    return run(experiment)


def child(store: Store, parent: str, experiment: Experiment, outcome: Outcome | None) -> str:
    """Record a run of a sweep that finished with `outcome`, or failed if there is none; return its id."""
    tags = {PARENT: parent, CONFIGURATION: configuration_digest(experiment)}
    record = recording(store, f"seed {experiment.seed}", {"seed": experiment.seed, "quant": "none"}, "", tags)
    if outcome is None:
        with pytest.raises(TrainingError), record as recorder:
            raise TrainingError("the loss became nan")
        return recorder.run_id
    with record as recorder:
        recorder.record(outcome, Identity.of(experiment, outcome.report.data.fingerprint))
    return recorder.run_id


def test_the_same_name_goes_on_with_the_same_parent(store: Store) -> None:
    first, before = sweeps.begin(store, "night", "python -m quantexp -m seed=0,1", resume=True)
    assert (before.done, before.failed) == ({}, frozenset())
    sweeps.end(store, first, "KILLED", "a note", None)
    again, _ = sweeps.begin(store, "night", "python -m quantexp -m seed=0,1,2", resume=True)
    other, _ = sweeps.begin(store, "day", "python -m quantexp -m seed=0", resume=True)
    anew, _ = sweeps.begin(store, "night", "python -m quantexp -m seed=0", resume=False)
    assert again == first
    assert len({first, other, anew}) == 3
    parent = store.client.get_run(first)
    assert (parent.info.status, parent.info.run_name) == ("RUNNING", "sweep night")
    assert parent.data.tags[COMMAND] == "python -m quantexp -m seed=0,1,2"
    assert parent.data.params == {}  # else it would stand among the runs of the saved view


def test_what_is_done_and_what_failed_is_known_when_a_sweep_goes_on(
    store: Store, experiment: Experiment, outcome: Outcome
) -> None:
    parent, _ = sweeps.begin(store, "night", "", resume=True)
    child(store, parent, experiment, outcome)
    child(store, parent, replace(experiment, seed=1), None)
    _, before = sweeps.begin(store, "night", "", resume=True)
    assert before.done == {Identity.of(experiment, outcome.report.data.fingerprint).digest: "seed 0"}
    assert before.failed == {configuration_digest(replace(experiment, seed=1))}
    _, anew = sweeps.begin(store, "night", "", resume=False)
    assert (anew.done, anew.failed) == ({}, frozenset())


def test_a_sweep_is_read_back_with_reports_and_errors(store: Store, experiment: Experiment, outcome: Outcome) -> None:
    parent, _ = sweeps.begin(store, "night", "python -m quantexp -m seed=0,1", resume=True)
    done = child(store, parent, experiment, outcome)
    failed = child(store, parent, replace(experiment, seed=1), None)
    sweeps.log_state(store, parent, done=1, failed=1, left=3)
    for name in ("night", parent):
        sweep = sweeps.read_sweep(Local(), name)
        assert (sweep.name, sweep.command, sweep.left) == ("night", "python -m quantexp -m seed=0,1", 3)
        assert [entry.run_id for entry in sweep.entries] == [done, failed]
        assert sweep.entries[0].report == outcome.report
        assert sweep.entries[0].settings == {"seed": "0", "quant": "none"}
        assert sweep.entries[1].error == "TrainingError: the loss became nan"
        assert sweep.reports == (outcome.report,)
        assert sweep.failed == (sweep.entries[1],)


def test_a_sweep_of_two_hosts_is_read_as_one(store: Store, experiment: Experiment, outcome: Outcome) -> None:
    here, _ = sweeps.begin(store, "night", "", resume=True)
    first = child(store, here, experiment, outcome)
    tags = {KIND: "sweep", SWEEP: "night", "host": "elsewhere"}
    there = store.client.create_run(store.experiment_id, run_name="sweep night", tags=tags).info.run_id
    elsewhere = replace(outcome, report=replace(outcome.report, host="elsewhere"))
    second = child(store, there, experiment, elsewhere)
    sweep = sweeps.read_sweep(Local(), "night")
    assert {entry.run_id for entry in sweep.entries} == {first, second}
    assert {report.host for report in sweep.reports} == {outcome.report.host, "elsewhere"}
    again, before = sweeps.begin(store, "night", "", resume=True)
    assert again == here  # each host goes on with its own
    assert list(before.done.values()) == ["seed 0"]


def test_a_combination_that_was_repeated_counts_once_by_its_last_success(
    store: Store, experiment: Experiment, outcome: Outcome
) -> None:
    parent, _ = sweeps.begin(store, "night", "", resume=True)
    child(store, parent, experiment, None)
    kept = child(store, parent, experiment, outcome)
    child(store, parent, experiment, None)
    sweep = sweeps.read_sweep(Local(), "night")
    assert [entry.run_id for entry in sweep.entries] == [kept]


def test_what_was_killed_is_neither_done_nor_failed(store: Store, experiment: Experiment) -> None:
    parent, _ = sweeps.begin(store, "night", "", resume=True)
    tags = {PARENT: parent, CONFIGURATION: configuration_digest(experiment)}
    with pytest.raises(KeyboardInterrupt), recording(store, "stopped", {}, "", tags):
        raise KeyboardInterrupt
    assert sweeps.read_sweep(Local(), "night").entries == ()
    _, before = sweeps.begin(store, "night", "", resume=True)
    assert (before.done, before.failed) == ({}, frozenset())


def test_a_report_that_cannot_be_read_is_a_row_that_says_so(
    store: Store, experiment: Experiment, outcome: Outcome
) -> None:
    parent, _ = sweeps.begin(store, "night", "", resume=True)
    run_id = child(store, parent, experiment, outcome)
    Path(f"mlartifacts/{run_id}/artifacts/report.json").write_text('{"task": "mnist"}')
    (entry,) = sweeps.read_sweep(Local(), "night").entries
    assert entry.report is None
    assert "its report cannot be read" in str(entry.error)
    assert store.client.get_run(run_id).data.tags[IDENTITY]


def absent(flow: str) -> UnsupportedEntry:
    return UnsupportedEntry((f"quant.flow={flow}",), {"quant.flow": flow}, f"quant.flow={flow} does not exist")


def test_what_does_not_exist_is_read_back_with_what_was_asked_for_before(store: Store) -> None:
    parent, _ = sweeps.begin(store, "night", "", resume=True)
    sweeps.log_unsupported(store, parent, [])
    assert sweeps.read_sweep(Local(), "night").unsupported == ()
    assert store.client.get_run(parent).data.metrics == {}
    sweeps.log_unsupported(store, parent, [absent("fx"), absent("pt2e")])
    typed_otherwise = replace(absent("pt2e"), asked=("quant.flow='pt2e'",))
    sweeps.log_unsupported(store, parent, [typed_otherwise, absent("torchao")])
    assert sweeps.read_sweep(Local(), "night").unsupported == (absent("fx"), typed_otherwise, absent("torchao"))
    assert store.client.get_run(parent).data.metrics == {"unsupported": 3}


@pytest.mark.parametrize("content", ["", "{}", '[{"asked": "quant.flow=fx"}]'])
def test_a_list_of_what_does_not_exist_that_is_damaged_is_told_and_written_anew(store: Store, content: str) -> None:
    parent, _ = sweeps.begin(store, "night", "", resume=True)
    sweeps.log_unsupported(store, parent, [absent("fx")])
    Path(f"mlartifacts/{parent}/artifacts/unsupported.json").write_text(content)
    with pytest.raises(TrackingError, match=rf"unsupported\.json of run {parent} cannot be read"):
        sweeps.read_sweep(Local(), "night")
    sweeps.log_unsupported(store, parent, [absent("fx")])
    assert sweeps.read_sweep(Local(), "night").unsupported == (absent("fx"),)


@pytest.mark.parametrize("name", ["nothing", "no' or '1'='1", "\\", "0" * 32])
def test_a_sweep_that_is_not_there_is_told_with_those_that_are(store: Store, name: str) -> None:
    sweeps.begin(store, "night", "", resume=True)
    with pytest.raises(TrackingError, match=r"holds no sweep called .*; it holds night"):
        sweeps.read_sweep(Local(), name)


def test_reading_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match=r"there is no store .*mlflow\.db"):
        sweeps.read_sweep(Local(), "night")
    assert list(tmp_path.iterdir()) == []

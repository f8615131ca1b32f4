"""The best network of a sweep in MLflow's registry: which one, and what can be done with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import quantexp
from quantexp.config import Dynamic, Experiment, Flow, Local, Mlp, Mnist, NoQuant, Paired, Train
from quantexp.mission import RunResult
from quantexp.register import main
from quantexp.runner.checks import check_inputs
from quantexp.runner.identity import configuration
from quantexp.runner.single import run_single
from quantexp.runner.tracked import Request
from quantexp.system.errors import ConfigError, QuantexpError, TrackingError, TrainingError
from quantexp.tracking import sweeps
from quantexp.tracking.registry import CONTENT, FLOAT_RUN
from quantexp.tracking.store import Store, open_store
from tests.builders import lone, method, report, speedup
from tests.stores import record

ARGUMENTS = ("night", "--name", "digits", "--alias", "best", "--within", "0.02")


def small(cache: Path, **changes: object) -> Experiment:
    """A quick experiment on a small network."""
    settings: dict[str, object] = {
        "task": Mnist(hidden=[8]),
        "model": Mlp(hidden=[8]),
        "train": Train(epochs=1, threads=1),
        "quant": NoQuant(),
        "data": "sample",
        "cache_dir": str(cache),
        "benchmark": Paired(placements=2, seconds=0.02),
        "batch_size": [1],
    }
    return Experiment(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def networks(cache: Path) -> tuple[RunResult, RunResult]:
    """The results of a float run, and of a quantized one."""
    return quantexp.run(small(cache)), quantexp.run(small(cache, quant=Dynamic(flow=Flow.eager)))


@pytest.fixture
def store(workdir: Path) -> Store:
    """An empty store in the working directory."""
    return open_store(Local())


@pytest.fixture
def runs(store: Store, networks: tuple[RunResult, RunResult]) -> dict[str, str]:
    """The ids of the runs of a sweep: float, a small one, a fast one, a bad one, one that failed."""
    parent = sweeps.begin(store, "night", "", resume=True)
    fast = method("static", megabytes=1.6, speedups=(speedup(1, 3.0), speedup(64, 4.0)))
    bad = method("weight_only", megabytes=0.7, correct=900, gained=0, lost=78)
    return {
        "float": record(store, lone(), "float", parent, networks[0]),
        "small": record(store, method("dynamic", megabytes=1.5), "small", parent, networks[1]),
        "fast": record(store, fast, "fast", parent, networks[1]),
        "bad": record(store, bad, "bad", parent, networks[1]),
        "failed": record(store, None, "failed", parent),
    }


def failed(*arguments: str) -> int:
    """Run the command, which fails, and return its exit status."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code


def test_the_smallest_within_the_drop_is_registered_and_every_other_run_has_a_line(
    store: Store, runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(ARGUMENTS)
    shown = capsys.readouterr().out
    assert shown.splitlines()[:3] == [
        "registered: models:/digits@best is version 1 of digits",
        f"  small, run {runs['small']}",
        "  the smallest of 2 networks that keep the bounds: 1.50 MB, accuracy drop 0.0020, "
        "speedup 2.00x [1.99, 2.01] at batch 1",
    ]
    assert "left out: float: it measured the float network alone" in shown
    assert "left out: bad: accuracy drop at most 0.02: fail, 0.0780 [" in shown
    assert "left out: fast: larger: 1.60 MB" in shown
    assert "left out: failed: failed: ValueError: the loss became nan" in shown
    version = store.client.get_model_version_by_alias("digits", "best")
    assert version.run_id == runs["small"]
    assert version.tags["quantexp.run"] == runs["small"]
    assert (version.tags["quant"], version.tags["runtime"]) == ("dynamic", "eager")
    assert version.description.startswith("From the sweep night: the smallest of 2 networks")
    assert "| Accuracy" in version.description


def test_the_fastest_is_that_with_the_largest_paired_speedup(
    store: Store, runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*ARGUMENTS, "--rule", "fastest"])
    shown = capsys.readouterr().out
    assert store.client.get_model_version_by_alias("digits", "best").run_id == runs["fast"]
    assert "the fastest of 2 networks that keep the bounds at batch 1" in shown
    assert "left out: small: slower: 2.00x [1.99, 2.01]\n" in shown
    assert failed(*ARGUMENTS, "--rule", "fastest", "--batch-size", "7") == 2
    assert "a measured batch size, got 7; measured: 1 and 64" in capsys.readouterr().err


def test_the_same_network_gets_no_second_version_and_the_alias_moves(store: Store, runs: dict[str, str]) -> None:
    main(ARGUMENTS)
    main([*ARGUMENTS, "--rule", "fastest"])
    main(ARGUMENTS)
    assert sorted(version.version for version in store.client.search_model_versions("name = 'digits'")) in (
        [1, 2],
        ["1", "2"],
    )
    assert store.client.get_model_version_by_alias("digits", "best").run_id == runs["small"]


def test_a_bound_that_no_network_keeps_registers_nothing_and_says_why(
    store: Store, runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed(*ARGUMENTS[:5], "--within", "0") == 1
    told = capsys.readouterr().err
    assert "no network of the sweep night keeps the bounds, so nothing is registered" in told
    assert "small: accuracy drop at most 0: undecided, 0.0020 [" in told
    assert not store.client.search_registered_models()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["night", "--name", "a/b"], "--name must be without spaces, quotes and / @ :, got 'a/b'"),
        (["night", "--name", "a", "--alias", "latest"], "not be latest or like v1, got 'latest'"),
        (["night", "--name", "a", "--where", "quant"], "--where must be SETTING=VALUE, got 'quant'"),
        (["night", "--name", "a", "--where", "quant=amp"], "it has dynamic, none, static, weight_only"),
    ],
)
def test_wrong_arguments_end_with_2(
    runs: dict[str, str], arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed(*arguments) == 2
    assert told in capsys.readouterr().err


def test_networks_of_two_tasks_are_not_compared_unless_one_is_chosen(
    store: Store, networks: tuple[RunResult, RunResult], capsys: pytest.CaptureFixture[str]
) -> None:
    parent = sweeps.begin(store, "night", "", resume=True)
    for task in ("mnist", "sst2"):
        record(store, replace(method("dynamic"), task=task), task, parent, networks[1])
    assert failed(*ARGUMENTS) == 2
    assert "networks of one task are compared, got mnist and sst2; choose with --where" in capsys.readouterr().err
    main([*ARGUMENTS, "--where", "task=sst2"])
    assert store.client.get_model_version_by_alias("digits", "best").tags["task"] == "sst2"


def test_a_network_that_was_not_stored_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    parent = sweeps.begin(store, "night", "", resume=True)
    record(store, method("dynamic"), "small", parent)
    assert failed(*ARGUMENTS) == 1
    assert "was recorded with tracking.store_model=false, so its network cannot be loaded" in capsys.readouterr().err


def test_a_registered_network_is_loaded_by_alias_and_by_version(
    runs: dict[str, str], networks: tuple[RunResult, RunResult]
) -> None:
    main(ARGUMENTS)
    batch = torch.rand(4, 400)
    expected = networks[1].model(batch)
    for reference in ("models:/digits@best", "models:/digits/1"):
        assert torch.equal(quantexp.load(reference)(batch), expected)


def test_loading_it_many_times_leaves_no_file_open(runs: dict[str, str]) -> None:
    main(ARGUMENTS)
    quantexp.load("models:/digits@best")
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
    for _ in range(3):
        quantexp.load("models:/digits@best")
    assert (len(list(descriptors.iterdir())) if descriptors.is_dir() else 0) == before


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("models:/nothing@best", "has no registered network 'nothing'; it has digits"),
        ("models:/digits@champion", r"digits in .* has no alias 'champion'; its aliases: @best \(version 1\)"),
        ("models:/digits/7", "digits in .* has no version 7; its aliases: @best"),
    ],
)
def test_a_name_or_alias_that_does_not_exist_is_told_with_those_that_do(
    runs: dict[str, str], cache: Path, reference: str, told: str
) -> None:
    main(ARGUMENTS)
    with pytest.raises(TrackingError, match=told):
        quantexp.load(reference)
    with pytest.raises(TrackingError, match=told):
        check_inputs(small(cache, train=Train(checkpoint=reference)))


@pytest.mark.parametrize("reference", ["models:/digits", "models:/a/b/c", "models:/digits@"])
def test_a_reference_of_another_form_is_an_error_that_shows_the_form(reference: str, cache: Path) -> None:
    told = f"is models:/NAME@ALIAS or models:/NAME/VERSION, got {reference}"
    with pytest.raises(ConfigError, match=told):
        quantexp.load(reference)
    with pytest.raises(ConfigError, match=told):
        small(cache, train=Train(checkpoint=reference))


def test_files_that_are_gone_or_changed_are_told(store: Store, runs: dict[str, str], workdir: Path) -> None:
    main(ARGUMENTS)
    folder = workdir / "mlartifacts" / runs["small"] / "artifacts" / "model"
    state = next(folder.glob("state.*"))
    content = state.read_bytes()
    state.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(QuantexpError, match="damaged"):
        quantexp.load("models:/digits@best")
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**recipe, "more": 1}))
    with pytest.raises(TrackingError, match="is not the one that was registered; register a network again"):
        quantexp.load("models:/digits@best")
    shutil.rmtree(folder)
    with pytest.raises(TrackingError, match=r"models:/digits@best, version 1: model/recipe.json of run .* cannot be"):
        quantexp.load("models:/digits@best")
    store.client.set_model_version_tag("digits", "1", CONTENT, "")
    version = store.client.get_model_version("digits", "1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(version), "run_id", property(lambda version: "f" * 32))
        with pytest.raises(TrackingError, match=r"is version 1 of digits: .* has no run"):
            quantexp.load("models:/digits@best")


def test_a_quantized_network_is_refused_as_checkpoint_with_its_float_run(
    store: Store, runs: dict[str, str], cache: Path, networks: tuple[RunResult, RunResult]
) -> None:
    main(ARGUMENTS)
    assert store.client.get_model_version("digits", "1").tags[FLOAT_RUN] == runs["float"]
    told = f"models:/digits@best is quantized .*quant=dynamic.*train.checkpoint=runs:/{runs['float']}"
    refused = small(cache, train=Train(checkpoint="models:/digits@best"))
    for attempt in (check_inputs, quantexp.run):
        with pytest.raises(TrainingError, match=told):
            attempt(refused)
    started = quantexp.run(small(cache, train=Train(checkpoint=f"runs:/{runs['float']}")))
    state = networks[0].model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in started.model.state_dict().items())


@pytest.fixture
def registered_float(store: Store, runs: dict[str, str]) -> Callable[[str], None]:
    """Register a float run under a name, as a user of MLflow does."""

    def register(run_id: str) -> None:
        if not store.client.search_registered_models("name = 'start'"):
            store.client.create_registered_model("start")
        source = f"{store.run(run_id).artifact_uri}/model"
        version = store.client.create_model_version("start", source, run_id)
        store.client.set_registered_model_alias("start", "best", version.version)

    return register


def test_a_run_starts_from_a_registered_float_network_and_its_identity_has_the_digest_of_the_weights(
    store: Store,
    runs: dict[str, str],
    registered_float: Callable[[str], None],
    cache: Path,
    workdir: Path,
    networks: tuple[RunResult, RunResult],
) -> None:
    registered_float(runs["float"])
    experiment = small(cache, train=Train(checkpoint="models:/start@best"))
    result = quantexp.run(experiment)
    state = networks[0].model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in result.model.state_dict().items())
    file = workdir / "mlartifacts" / runs["float"] / "artifacts" / "model" / "state.safetensors"
    digest = configuration(experiment)["train"]["checkpoint"]
    same_file = small(cache, train=Train(checkpoint=str(file)))
    assert digest == configuration(same_file)["train"]["checkpoint"]
    assert load_file(file)

    other = quantexp.run(small(cache, seed=1))
    moved = record(store, lone(), "other", None, other)
    registered_float(moved)  # the alias moves, the text stays the same
    assert configuration(experiment)["train"]["checkpoint"] != digest
    assert configuration(small(cache, train=Train(checkpoint="models:/start/1")))["train"]["checkpoint"] == digest


def test_a_recorded_run_says_which_version_an_alias_named(
    store: Store, runs: dict[str, str], registered_float: Callable[[str], None], cache: Path
) -> None:
    registered_float(runs["float"])
    experiment = small(cache, train=Train(checkpoint="models:/start@best"), tracking=Local())
    yaml = OmegaConf.to_yaml(OmegaConf.structured(experiment))
    run_single(experiment, Request({"task": "mnist", "model": "mlp", "quant": "none"}, [], yaml, quiet=True))
    latest = next(store.search("params.`train.checkpoint` != ''"))
    assert latest.params["train.checkpoint"] == "models:/start/1"


def test_runs_without_labels_need_another_bound(
    store: Store, networks: tuple[RunResult, RunResult], capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.builders import without_labels

    parent = sweeps.begin(store, "night", "", resume=True)
    record(store, without_labels(report()), "random", parent, networks[1])
    for arguments in (ARGUMENTS, ARGUMENTS[:5]):
        assert failed(*arguments) == 2
        assert "had no labels" in capsys.readouterr().err
    main([*ARGUMENTS[:5], "--min-sqnr-db", "20"])
    assert "the only network that keeps the bounds" in capsys.readouterr().out

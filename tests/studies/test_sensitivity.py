"""`study=sensitivity`: which layer it finds fragile, what it leaves in the store, and how it goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from safetensors.torch import save_file

from quantexp.config import (
    Amp,
    Dynamic,
    Experiment,
    FakeQuant,
    Flow,
    Granularity,
    Lenet5,
    Local,
    Mlp,
    Mnist,
    NoQuant,
    Paired,
    Qat,
    Quant,
    Sensitivity,
    Single,
    Static,
    Train,
    WeightOnly,
)
from quantexp.reports.findings import Findings
from quantexp.runner import study as conducting
from quantexp.runner.finished import read_finished_run
from quantexp.runner.identity import configuration_digest
from quantexp.runner.reproduce import restore
from quantexp.runner.study import run_study
from quantexp.runner.tracked import Request
from quantexp.system.errors import ConfigError, QuantizationError
from quantexp.tracking.names import PARENT
from quantexp.tracking.store import open_store
from tests.studies.fragile import fragile

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]
CHOICES = {"task": "mnist", "model": "mlp", "quant": "static", "study": "sensitivity"} | {
    group: "default" for group in ("train", "benchmark", "tracking")
}
ARTIFACTS = {"config.yaml", "environment.json", "pictures", "table.md", "variants.csv"}
LAYERS = ("layers.0", "layers.2", "layers.4")
VARIANTS = {"", *(f"quant.{key}=[{name}]" for key in ("include", "exclude") for name in LAYERS)}


@pytest.fixture
def small(sample: Callable[..., Experiment]) -> Callable[..., Experiment]:
    """Build a study of an MLP of 400-8-8-10 on the sample, measured as briefly as can be."""

    def build(**parts: object) -> Experiment:
        settings: dict[str, object] = {
            "task": Mnist(hidden=[8, 8]),
            "model": Mlp(hidden=[8, 8]),
            "quant": Static(calibration_examples=64),
            "train": Train(epochs=20, learning_rate=0.01, threads=1),
            "benchmark": Paired(placements=2, seconds=0.01),
            "batch_size": 1,
            "study": Sensitivity(),
        }
        return sample(**{**settings, **parts})

    return build


def done(experiment: Experiment, **choices: str) -> Findings:
    """Do what the command does with an experiment that asks for the study."""
    request = Request(
        {**CHOICES, **choices}, ["study=sensitivity"], OmegaConf.to_yaml(OmegaConf.structured(experiment))
    )
    return run_study(experiment, request)


def runs() -> tuple[Any, list[Any], list[Any]]:
    """Return a client, the runs of studies, and those of variants, as the store in the working directory has them."""
    store = open_store(Local())
    every = list(store.search(""))
    studies = [run for run in every if run.params.get("study") == "sensitivity"]
    return store.client, studies, [run for run in every if run not in studies]


def asked_of(run: Any) -> str:
    """Return what tells a variant apart, from its name: `quant.include=[layers.0]`, nothing of all layers."""
    return str(" ".join(run.name.split(" ")[1:]))


# -- what it finds ---------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_a_layer_whose_weights_round_to_zero_is_ranked_first_and_is_to_be_kept_in_float(
    workdir: Path, small: Callable[..., Experiment], layer: int
) -> None:
    save_file(fragile(small(study=Single()), layer), workdir / "fragile.safetensors")
    experiment = small(
        quant=Static(weights=Granularity.per_tensor, calibration_examples=64),
        train=Train(checkpoint=str(workdir / "fragile.safetensors"), threads=1),
    )
    found = done(experiment)
    name = f"layers.{layer}"
    rows = found.table.rows
    assert [row[:2] for row in rows[:3]] == [("all layers", "all"), (name, "alone"), ("", "all but it")]
    others = [found.metrics[f"alone/{other}/accuracy_drop"] for other in LAYERS if other != name]
    assert found.metrics[f"alone/{name}/accuracy_drop"] > 0.3 > max(others)
    assert found.metrics[f"all_but/{name}/accuracy_drop"] < 0.1
    assert found.table.notes[0].startswith(f"Keep {name} in float (quant.exclude=[{name}])")


@pytest.mark.exhaustive
def test_a_module_with_children_is_varied_as_a_whole(workdir: Path, small: Callable[..., Experiment]) -> None:
    network = {"task": Mnist(crop=32), "model": Lenet5(), "train": Train(epochs=1, threads=1)}
    found = done(small(**network, study=Sensitivity(layers=["features", "classifier.4"])), model="lenet5")
    assert {row[0] for row in found.table.rows} == {"all layers", "features", "classifier.4", ""}
    assert any("Modules: features (features.0, features.3)" in note for note in found.table.notes)
    _, _, variants = runs()
    assert {asked_of(run) for run in variants} == {
        "",
        *("quant.include=[features.0,features.3]", "quant.exclude=[features.0,features.3]"),
        *("quant.include=[classifier.4]", "quant.exclude=[classifier.4]"),
    }


def test_of_two_layers_one_alone_is_all_but_the_other(workdir: Path, small: Callable[..., Experiment]) -> None:
    found = done(small(quant=Dynamic(exclude=["layers.4"]), study=Sensitivity()), quant="dynamic")
    assert len(found.lines["variants"]) == 1 + 1 + 4  # header, all layers, two for each
    assert len(runs()[2]) == 3
    assert found.metrics["alone/layers.0/output_sqnr_db"] == found.metrics["all_but/layers.2/output_sqnr_db"]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "quant",
    [
        Dynamic(flow=Flow.torchao),
        pytest.param(Static(flow=Flow.pt2e, calibration_examples=64), marks=pytest.mark.exhaustive),
        pytest.param(Qat(flow=Flow.fx), marks=pytest.mark.exhaustive),
        *(WeightOnly(), FakeQuant(weight_bits=2)),
    ],
    ids=lambda quant: f"{quant.name}-{getattr(quant, 'flow', 'simulated')}",
)
def test_every_method_that_can_leave_layers_in_float_is_studied_by_the_names_of_the_float_model(
    workdir: Path, small: Callable[..., Experiment], quant: Quant
) -> None:
    found = done(small(quant=quant, train=Train(epochs=1, threads=1)), quant=quant.name)
    assert {row[0] for row in found.table.rows} == {"all layers", *LAYERS, ""}
    assert not [note for note in found.table.notes if note.startswith("Not measured")]
    timed = {f"{kind}/{name}/speedup_b1" for kind in ("alone", "all_but") for name in LAYERS}
    assert timed <= found.metrics.keys() if quant.timed else not timed & found.metrics.keys()


def test_a_pattern_that_matches_no_quantized_layer_is_an_error_that_lists_them(
    workdir: Path, small: Callable[..., Experiment]
) -> None:
    with pytest.raises(QuantizationError) as error:
        done(small(study=Sensitivity(layers=["features"])))
    assert "'features' matches none; the layers are layers.0, layers.2, layers.4, the modules layers" in str(
        error.value
    )
    _, (study,), _ = runs()
    assert study.status == "FAILED"


@pytest.mark.exhaustive
def test_a_variant_that_cannot_be_quantized_is_named_and_the_others_continue(
    workdir: Path, small: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(experiment: Experiment, request: Request) -> Any:
        if getattr(experiment.quant, "include", None) == ["layers.2"]:
            raise QuantizationError("it has no kernel")
        return real(experiment, request)

    real = conducting.run_single
    monkeypatch.setattr(conducting, "run_single", failing)
    found = done(small())
    assert "Not measured: layers.2 alone (it has no kernel)." in found.table.notes
    assert [row[:2] for row in found.table.rows[-2:]] == [("layers.2", "alone"), ("", "all but it")]
    assert set(found.table.rows[-2][2:]) == {""}
    assert all(found.table.rows[-1][2:])


# -- what it leaves, and how it goes on ------------------------------------------------------------------


def test_the_store_holds_a_run_of_the_study_with_a_child_for_each_variant(
    workdir: Path, small: Callable[..., Experiment]
) -> None:
    found = done(small())
    client, (study,), variants = runs()
    assert study.status == "FINISHED"
    assert "quant" not in study.params  # else MLflow's saved view would list it among its variants
    assert study.metrics.keys() == found.metrics.keys()
    assert {entry.path for entry in client.list_artifacts(study.run_id)} == ARTIFACTS
    assert {entry.path for entry in client.list_artifacts(study.run_id, "pictures")} == {
        "pictures/accuracy_by_layer.png",
        "pictures/sqnr_by_layer.png",
    }
    assert {asked_of(run) for run in variants} == VARIANTS
    assert len(variants) == len(VARIANTS)
    for run in variants:
        assert run.tags[PARENT] == study.run_id
        assert (run.params["study"], run.params["quant"]) == ("single", "static")


def test_a_variant_can_be_made_again_from_its_record(workdir: Path, small: Callable[..., Experiment]) -> None:
    done(small(study=Sensitivity(layers=["layers.2"])))
    store = open_store(Local())
    (run,) = (run for run in runs()[2] if "include" in run.name)
    experiment = restore(read_finished_run(store, run.run_id))
    assert isinstance(experiment.quant, Static)
    assert (experiment.quant.include, experiment.study) == (["layers.2"], Single())


def test_a_study_that_was_stopped_goes_on_with_what_is_left(
    workdir: Path, small: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(3))

    def stopped(experiment: Experiment, request: Request) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(experiment, request)

    real = conducting.run_single
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(conducting, "run_single", stopped)
        done(small())
    _, (study,), before = runs()
    assert (study.status, len(before)) == ("KILLED", 3)

    found = done(small())
    _, (again,), after = runs()
    assert (again.run_id, again.status) == (study.run_id, "FINISHED")
    assert "error" not in again.tags
    assert {run.run_id for run in before} < {run.run_id for run in after}
    assert (len(after), {asked_of(run) for run in after}) == (len(VARIANTS), VARIANTS)
    assert len(found.table.rows) == len(VARIANTS)

    assert done(small()).table == found.table, "what is finished is told again, and nothing is measured"
    assert len(runs()[2]) == len(VARIANTS)
    done(small(study=Sensitivity(resume=False)))
    assert (len(runs()[1]), len(runs()[2])) == (2, 2 * len(VARIANTS))


@pytest.mark.exhaustive
def test_another_study_of_the_same_network_is_a_run_of_its_own(workdir: Path, small: Callable[..., Experiment]) -> None:
    for layers in (["layers.0"], ["layers.2"]):
        done(small(study=Sensitivity(layers=layers)))
    _, studies, variants = runs()
    assert (len(studies), len(variants)) == (2, 6)


def test_whether_it_goes_on_makes_no_other_study() -> None:
    digests = {configuration_digest(Experiment(study=Sensitivity(resume=one))) for one in (True, False)}
    assert len(digests) == 1
    assert configuration_digest(Experiment(study=Sensitivity(layers=["layers.0"]))) not in digests


# -- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", [NoQuant(), Amp()], ids=["none", "amp"])
def test_a_method_without_layers_to_choose_is_refused_with_those_that_have_them(quant: Quant) -> None:
    with pytest.raises(ConfigError) as error:
        Experiment(quant=quant, study=Sensitivity())
    assert error.value.faults == (
        "study=sensitivity needs a method that quantizes layers one by one (quant=dynamic, quant=weight_only, "
        f"quant=static, quant=qat, quant=fake_quant), got quant={quant.name}",
    )


def test_the_command_refuses_such_a_method_in_one_message(workdir: Path, quantexp: Command) -> None:
    refused = quantexp("study=sensitivity", "quant=none", "data=sample")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("quantexp: study=sensitivity needs a method that quantizes layers one by one")


@pytest.mark.exhaustive
def test_in_a_sweep_each_study_has_its_own_run_and_goes_on_with_the_sweep(workdir: Path, quantexp: Command) -> None:
    asked = ["study=sensitivity", "study.layers=[layers.2]", "seed=0,1", "data=sample", "quant=dynamic", "batch_size=1"]
    settings = ["model.hidden=[8,8]", "benchmark.placements=2", "benchmark.seconds=0.01", "sweep.name=both"]
    for _ in range(2):
        ended = quantexp("-m", *asked, *settings)
        assert ended.returncode == 0, ended.stderr
        assert "the report of the sweep cannot be made" not in ended.stderr
        assert ended.stdout.count("all but it") == 2
    client, studies, rest = runs()
    assert {run.params["seed"] for run in studies} == {"0", "1"}
    (sweep,) = {run.tags[PARENT] for run in studies}
    assert client.get_run(sweep).info.status == "FINISHED"
    assert len(studies) == 2
    assert len(rest) == 1 + 2 * 3  # the sweep, and three variants for each study

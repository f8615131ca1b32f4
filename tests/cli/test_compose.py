"""Mistakes on the command line: told in words, all of them, before anything starts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from quantexp.cli.compose import explain, to_experiment
from quantexp.cli.schemas import conf_dir, register
from quantexp.config import METHODS
from quantexp.system.errors import ConfigError

Command = Callable[..., "subprocess.CompletedProcess[str]"]
LISTS_ALL = "`python -m quantexp --help` lists every setting and value"


def explained(*overrides: str) -> str:
    """Return how the error of these overrides is explained."""
    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"), pytest.raises(Exception) as error:
        to_experiment(compose("config", overrides=list(overrides)))
    assert not isinstance(error.value, ConfigError)  # its words are our own already
    return explain(error.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, entered."""
    empty = tmp_path / "work"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


@pytest.fixture
def without_torch(tmp_path: Path) -> str:
    """A PYTHONPATH on which torch and mlflow are modules that cannot be imported."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("torch", "mlflow"):
        (folder / f"{name}.py").write_text("raise RuntimeError('imported too early')\n")
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "precison=int8",
            "there is no setting precison. Did you mean precision? Possible here: batch_size, benchmark, cache_dir, "
            "data, data_dir, evaluation, evaluation_examples, model, precision, quant, runtime, seed, study, sweep, "
            "task, tracking, train, validation",
        ),
        (
            "quant.calibrate=test",
            "there is no setting quant.calibrate. Did you mean calibration? Possible here: activations, calibration, "
            "calibration_examples, calibration_seed, dynamic, engine, exclude, flow, include, observer, percentile, "
            "reduce_range, weights",
        ),
        (
            "train.zzz=1",
            "there is no setting train.zzz. Possible here: batch_size, checkpoint, device, epochs, examples, "
            "learning_rate, optimizer, threads",
        ),
    ],
)
def test_an_unknown_setting_is_answered_with_the_nearest_and_all_possible_ones(override: str, told: str) -> None:
    assert explained(override) == told


def test_a_setting_of_another_method_is_answered_with_those_of_the_chosen_one() -> None:
    told = explained("quant=dynamic", "quant.observer=minmax")
    assert (
        told == "there is no setting quant.observer. Possible here: embeddings, engine, exclude, flow, include, weights"
    )


def test_an_unknown_value_of_a_group_is_answered_with_the_possible_ones() -> None:
    possible = ", ".join(sorted(method.name for method in METHODS))
    assert explained("quant=statik") == f"quant cannot be statik. Did you mean static? Possible here: {possible}"
    assert explained("quant=zzz") == f"quant cannot be zzz. Possible here: {possible}"


def test_several_values_without_a_sweep_are_answered_with_how_to_sweep() -> None:
    told = "quant=none,static are several values; a sweep over them takes -m, as in: -m quant=none,static (a setting"
    assert explained("quant=none,static").startswith(told)


def test_an_unknown_name_is_answered_with_the_possible_ones() -> None:
    told = explained("quant.engine=mkl")
    assert "Invalid value 'mkl', expected one of [x86, fbgemm, onednn, qnnpack]" in told
    assert "quant.engine" in told
    assert told.endswith(LISTS_ALL)


@pytest.mark.parametrize(
    ("override", "key", "value", "kind"),
    [
        ("train.epochs=ten", "train.epochs", "ten", "Integer"),
        ("seed=1.5", "seed", "1.5", "Integer"),
        ("train.epochs=true", "train.epochs", "True", "Integer"),
        ("train.learning_rate=fast", "train.learning_rate", "fast", "Float"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_with_setting_value_and_type(
    override: str, key: str, value: str, kind: str
) -> None:
    told = explained(override)
    assert f"full_key: {key}" in told
    assert f"Value '{value}'" in told
    assert f"could not be converted to {kind}" in told
    assert told.endswith(LISTS_ALL)


@pytest.mark.parametrize("override", ["quant.engine=mkl", "train.epochs=ten", "quant=statik", "precision=${nothing}"])
def test_an_explanation_is_free_of_the_words_of_libraries(override: str) -> None:
    told = explained(override)
    for word in ("object_type", "reference_type", "provider=", "hydra.verbose", "Traceback"):
        assert word not in told


def test_a_value_that_is_missing_is_told_with_its_setting() -> None:
    assert "seed" in explained("seed=???")


def test_only_an_experiment_is_taken_for_one() -> None:
    with pytest.raises(ConfigError, match="expected an Experiment, got dict"):
        to_experiment(OmegaConf.create({"task": "mnist"}))


def test_a_sweep_is_checked_before_its_first_job(quantexp: Command, folder: Path, without_torch: str) -> None:
    done = quantexp("-m", "quant=static,none", "precision=fp16,int8", PYTHONPATH=without_torch)

    assert done.returncode == 2
    assert done.stderr.count("precision=fp16 is not supported by quant=static") == 1
    assert done.stderr.count("precision=int8 is not supported by quant=none") == 1
    assert "(in quant=static precision=fp16" in done.stderr
    assert "(in quant=none precision=int8" in done.stderr
    assert done.stderr.count("is not supported by") == 2  # the two possible pairs of the four are no faults
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(folder.iterdir()) == []  # neither multirun/ nor mlflow.db


def test_a_fault_that_many_combinations_share_is_told_once(quantexp: Command, folder: Path, without_torch: str) -> None:
    done = quantexp("-m", "task=mnist,sst2", "quant=none,qat", "seed=-1", PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert done.stderr.count("seed must be at least 0, got -1") == 1
    assert list(folder.iterdir()) == []


def test_a_sweep_with_a_value_that_does_not_exist_starts_no_job(
    quantexp: Command, folder: Path, without_torch: str
) -> None:
    done = quantexp("-m", "quant=static,statik", PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert "quant cannot be statik. Did you mean static?" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_sweep_over_a_glob_is_checked_before_its_first_job(
    quantexp: Command, folder: Path, without_torch: str
) -> None:
    done = quantexp("-m", "quant=glob(*)", "seed=-1", PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert done.stderr.count("seed must be at least 0, got -1") == 1
    assert list(folder.iterdir()) == []


def test_a_sweep_over_a_range_is_checked_before_its_first_job(
    quantexp: Command, folder: Path, without_torch: str
) -> None:
    done = quantexp("-m", "train.epochs=range(0,3)", PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert done.stderr.count("train.epochs must be at least 1, got 0") == 1
    assert list(folder.iterdir()) == []


def test_one_run_is_checked_before_anything_starts(quantexp: Command, folder: Path, without_torch: str) -> None:
    done = quantexp("quant=static", "precision=fp16", "batch_size=0", PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert "precision=fp16 is not supported by quant=static" in done.stderr
    assert "batch_size must be a positive integer" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []


def test_missing_data_are_told_once_each_before_the_first_job_of_a_sweep(
    quantexp: Command, folder: Path, tmp_path: Path, without_torch: str
) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    done = quantexp("-m", "task=mnist,sst2", "quant=none,static", f"data_dir={sets}", PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert done.stderr.count("must hold mnist/MNIST/raw/train-images-idx3-ubyte.gz") == 1
    assert done.stderr.count("must hold sst2/train.tsv") == 1
    assert list(folder.iterdir()) == []


def test_data_that_cannot_be_downloaded_are_told_before_anything_heavy_is_imported(
    quantexp: Command, folder: Path, tmp_path: Path, without_torch: str
) -> None:
    offline = {"PYTHONPATH": without_torch, "HF_HUB_OFFLINE": "1"}
    done = quantexp("task=sst2", f"cache_dir={tmp_path / 'cache'}", **offline)
    assert done.returncode == 2
    assert "sst2 is not in the cache and cannot be downloaded (there is no network)" in done.stderr
    assert "data=sample" in done.stderr
    assert list(folder.iterdir()) == []


def test_weights_that_are_not_there_are_told_before_anything_heavy_is_imported(
    quantexp: Command, folder: Path, without_torch: str
) -> None:
    done = quantexp("data=sample", "train.checkpoint=lost.pt", PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert "train.checkpoint must name a file with weights, there is no file lost.pt" in done.stderr
    assert list(folder.iterdir()) == []


def test_each_cache_of_a_sweep_is_looked_at_before_its_first_job(
    quantexp: Command, folder: Path, tmp_path: Path, without_torch: str
) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    (full / "data" / "sst2").mkdir(parents=True)
    for name in ("train", "dev"):
        (full / "data" / "sst2" / f"{name}.tsv").touch()
    offline = {"PYTHONPATH": without_torch, "HF_HUB_OFFLINE": "1"}
    done = quantexp("-m", "task=sst2", f"cache_dir={full},{empty}", **offline)
    assert done.returncode == 2
    assert "sst2 is not in the cache" in done.stderr
    assert list(folder.iterdir()) == []


def test_what_was_asked_for_is_told_before_what_is_missing(
    quantexp: Command, folder: Path, tmp_path: Path, without_torch: str
) -> None:
    done = quantexp("-m", "seed=-1,0", f"data_dir={tmp_path / 'nowhere'}", PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert "seed must be at least 0, got -1" in done.stderr
    assert "must hold" not in done.stderr


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("precison=int8", "quantexp: there is no setting precison. Did you mean precision?"),
        ("quant=statik", "quantexp: quant cannot be statik. Did you mean static?"),
        ("quant.engine=mkl", "Invalid value 'mkl', expected one of [x86, fbgemm, onednn, qnnpack]"),
        ("+foo=1", "quantexp: there is no setting foo;"),
        ("quant=static -m precision=int8,bf16", "(in quant=static precision=bf16"),  # -m may come later
    ],
)
def test_a_mistyped_argument_ends_the_command_with_status_2(
    quantexp: Command, folder: Path, without_torch: str, argument: str, told: str
) -> None:
    done = quantexp(*argument.split(), PYTHONPATH=without_torch)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="this system has no folder in which nobody can make a file")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-m", "hydra.sweep.dir=/proc/x"], "hydra.sweep.dir=FOLDER"),
        (["hydra.run.dir=/proc/x"], "hydra.run.dir=FOLDER"),
    ],
    ids=["sweep", "run"],
)
def test_a_folder_that_hydra_cannot_make_is_named_with_its_setting(
    quantexp: Command, workdir: Path, arguments: list[str], told: str
) -> None:
    done = quantexp(*arguments, "data=sample", "benchmark=quick")
    assert done.returncode == 2
    assert "/proc/x is not writable" in done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_hydras_own_words_can_be_had(quantexp: Command, folder: Path) -> None:
    done = quantexp("precison=int8", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConfigCompositionException" in done.stderr

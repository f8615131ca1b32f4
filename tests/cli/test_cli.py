"""The command as a user types it: one sweep over both tasks and every method, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import quantexp
from quantexp.config import DataSource, Engine, Experiment, Mnist, Sst2, Task
from quantexp.mission import load
from quantexp.system.energy import find
from quantexp.system.environment import describe
from quantexp.training.loop import outputs

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]

TASKS = ("mnist", "sst2")
METHODS = {"none": "fp32", "dynamic": "int8", "static": "int8", "qat": "int8", "amp": "bf16"}
SIZES = (1, 64)
COMBINATIONS = [(task, quant) for task in TASKS for quant in METHODS]  # in the order of the sweep
METERED = bool(find().counters)  # whether this machine counts energy
LAB_COLUMNS = [
    *("Task", "Quantization", "dtype", "Size (MB)", "Params", "MFLOPs", "Accuracy"),
    *(f"Latency B{size} (ms)" for size in SIZES),
    *(f"Energy B{size} (mJ)" for size in SIZES if METERED),
]
SMALL = ("data=sample", "benchmark=quick", "batch_size=1", "train.epochs=5", "task.hidden=[8]")
FIGURES = {f"{name}.csv" for name in ("classes", "confusion", "layers", "operators", "samples", "time")}
FIGURES |= {"energy.csv"} if METERED else set()
ARTIFACTS = {"config.yaml", "environment.json", "identity.json", "model", "report.json", "table.md"} | FIGURES
PATIENCE = 300  # seconds until a command that hangs is given up


@dataclass(frozen=True)
class Sweep:
    """What the sweep printed and where it ran."""

    folder: Path
    done: subprocess.CompletedProcess[str]

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def table_folder(self) -> Path:
        (found,) = self.folder.glob("multirun/*")
        return found

    def runs(self) -> dict[tuple[str, str], Any]:
        """The runs in the store, by task and method."""
        return {(run.data.params["task"], run.data.params["quant"]): run for run in runs_in(self.folder)}

    def artifact(self, run_id: str, name: str) -> str:
        (found,) = self.folder.glob(f"mlartifacts/{run_id}/artifacts/{name}")
        return found.read_text(encoding="utf-8")

    def report(self, run_id: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.artifact(run_id, "report.json"))
        return read


def client_of(folder: Path) -> Any:
    """A client of MLflow's own for the store in `folder`."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def runs_in(folder: Path) -> list[Any]:
    """The runs of combinations: the parent of a sweep has no parameters."""
    client = client_of(folder)
    return list(client.search_runs([client.get_experiment_by_name("quantexp").experiment_id], "params.quant != ''"))


def table_rows(text: str) -> list[list[str]]:
    """The rows of the last table in `text`, split into cells at two spaces or more."""
    lines = text.splitlines()
    start = max(number for number, line in enumerate(lines) if set(line.strip()) == {"─"})
    rows = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        rows.append(re.split(r"\s{2,}", line.strip()))
    return rows


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, store_template: Path) -> Sweep:
    """The sweep over both tasks and all methods, run once, with a cache of its own that begins empty."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(store_template, folder / "mlflow.db")
    axes = [f"task={','.join(TASKS)}", f"quant={','.join(METHODS)}"]
    done = subprocess.run(
        [sys.executable, "-m", "quantexp", "-m", "data=sample", "benchmark=quick", *axes, f"cache_dir={folder}/cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Sweep(folder, done)


def test_a_sweep_over_both_tasks_and_all_methods_exits_with_0(swept: Sweep) -> None:
    assert swept.done.returncode == 0, swept.done.stderr


def test_a_sweep_ends_with_a_table_in_the_columns_of_the_lab(swept: Sweep) -> None:
    header = [line for line in swept.done.stdout.splitlines() if line.strip().startswith("Task")]
    assert [re.split(r"\s{2,}", line.strip()) for line in header] == [LAB_COLUMNS]


def test_the_table_has_a_row_for_each_run_and_says_that_it_is_of_the_sample(swept: Sweep) -> None:
    rows = table_rows(swept.done.stdout)
    assert [row[:3] for row in rows] == [[f"{task} (sample)", quant, METHODS[quant]] for task, quant in COMBINATIONS]
    assert all(len(row) == len(LAB_COLUMNS) for row in rows)
    assert "accuracy on it does not transfer to the full data set" in swept.done.stdout


def test_the_sweep_says_where_its_report_lies_and_the_markdown_there_is_the_one_printed(swept: Sweep) -> None:
    assert f"{swept.table_folder.relative_to(swept.folder)}/report.html" in swept.done.stdout
    lines = (swept.table_folder / "table.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == LAB_COLUMNS
    assert cells[2:] == table_rows(swept.done.stdout)


def test_the_csv_of_a_sweep_holds_plain_numbers_that_match_the_records(swept: Sweep) -> None:
    with (swept.table_folder / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["Task"], row["Quantization"]) for row in rows] == [
        (f"{task} (sample)", quant) for task, quant in COMBINATIONS
    ]
    runs = swept.runs()
    for row, key in zip(rows, COMBINATIONS, strict=True):
        metrics = runs[key].data.metrics
        assert float(row["Accuracy"]) == metrics["accuracy"]
        assert float(row["Size (MB)"]) == metrics["size_mb"]
        assert int(row["Params"]) == metrics["parameters"]
        assert int(row["FLOPs"]) == metrics["flops"] > 0
        for size in SIZES:
            assert float(row[f"Latency B{size} mean (ms)"]) == metrics[f"latency_b{size}_ms_mean"] > 0
            assert float(row[f"Latency B{size} std (ms)"]) == metrics[f"latency_b{size}_ms_std"] >= 0


def test_each_run_is_recorded_as_finished_under_a_name_of_its_own(swept: Sweep) -> None:
    runs = runs_in(swept.folder)
    assert Counter(run.info.status for run in runs) == {"FINISHED": len(COMBINATIONS)}
    assert {run.info.run_name for run in runs} == {
        f"{task}-sample-{quant}-{METHODS[quant]}-s0 benchmark=quick" for task, quant in COMBINATIONS
    }
    assert client_of(swept.folder).search_runs(["0"]) == []  # nothing in MLflow's own "Default"


@pytest.mark.parametrize(("task", "quant"), COMBINATIONS)
def test_params_are_the_chosen_names_and_every_setting_flat(swept: Sweep, task: str, quant: str) -> None:
    params = swept.runs()[task, quant].data.params
    chosen = {
        "task": task,
        "model": "mlp",
        "quant": quant,
        "train": "default",
        "benchmark": "quick",
        "tracking": "local",
    }
    settings = {"precision": METHODS[quant], "data": "sample", "seed": "0", "batch_size": "[1, 64]"}
    nested = {"train.epochs": "2", "train.learning_rate": "0.001", "benchmark.placements": "3"}
    expected = chosen | settings | nested
    assert {name: params.get(name) for name in expected} == expected
    assert ("quant.engine" in params) == (quant in ("dynamic", "static", "qat"))
    assert not [value for value in params.values() if value.startswith("{")]  # no tree was left in one value


@pytest.mark.parametrize(("task", "quant"), [pair for pair in COMBINATIONS if pair[1] != "none"])
def test_metrics_hold_both_models_and_what_changed(swept: Sweep, task: str, quant: str) -> None:
    metrics = swept.runs()[task, quant].data.metrics
    headline = {"accuracy", "size_mb", "parameters", *(f"latency_b{size}_ms" for size in SIZES)}
    assert headline <= metrics.keys()
    assert {f"float/{name}" for name in headline} <= metrics.keys()
    assert metrics["accuracy_drop"] == pytest.approx(metrics["float/accuracy"] - metrics["accuracy"], abs=2e-6)
    assert metrics["compression"] == pytest.approx(metrics["float/size_mb"] / metrics["size_mb"], abs=1e-4)
    for size in SIZES:
        assert metrics[f"speedup_b{size}_low"] <= metrics[f"speedup_b{size}"] <= metrics[f"speedup_b{size}_high"]
    examples = swept.report(swept.runs()[task, quant].info.run_id)["data"]["test"]
    gained = metrics["flips_gained"] - metrics["flips_lost"]
    assert gained == pytest.approx(-metrics["accuracy_drop"] * examples, abs=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_int8_weights_take_a_quarter_of_the_bytes_of_float_ones(swept: Sweep, task: str) -> None:
    runs = swept.runs()
    for quant in ("dynamic", "static", "qat"):
        assert 3.5 < runs[task, quant].data.metrics["compression"] <= 4.0  # scales and the container take the rest
    assert runs[task, "amp"].data.metrics["compression"] == pytest.approx(1.0, abs=1e-3)  # its weights stay float32


@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_lowers_nothing_measures_one_model_and_compares_nothing(swept: Sweep, task: str) -> None:
    run = swept.runs()[task, "none"]
    report = swept.report(run.info.run_id)
    assert report["quantized"] is None
    assert report["comparison"] is None
    assert run.data.metrics["accuracy"] == pytest.approx(report["baseline"]["quality"]["value"], abs=1e-6)
    assert not [name for name in run.data.metrics if name.startswith(("float/", "speedup", "compression"))]
    rows = csv.DictReader(swept.artifact(run.info.run_id, "samples.csv").splitlines())
    assert {row["model"] for row in rows} == {"float"}


def test_tags_say_where_and_with_what_a_run_took_place(swept: Sweep) -> None:
    machine = describe()
    for run in swept.runs().values():
        tags = run.data.tags
        assert tags["host"] == machine.host
        assert tags["cpu"] == machine.cpu
        assert tags["torch"] == torch.__version__
        assert tags["quantexp.version"] == quantexp.__version__
        assert "error" not in tags


def test_only_static_quantization_is_tagged_with_the_split_it_was_calibrated_on(swept: Sweep) -> None:
    tagged = {key: run.data.tags["calibration"] for key, run in swept.runs().items() if "calibration" in run.data.tags}
    assert tagged == {("mnist", "static"): "train", ("sst2", "static"): "train"}


@pytest.mark.parametrize(("task", "quant"), COMBINATIONS)
def test_each_run_keeps_its_artifacts(swept: Sweep, task: str, quant: str) -> None:
    run_id = swept.runs()[task, quant].info.run_id
    losses = {"layer_losses.csv"} if quant in ("dynamic", "static", "qat") else set()
    assert {entry.path for entry in client_of(swept.folder).list_artifacts(run_id)} == ARTIFACTS | losses
    assert json.loads(swept.artifact(run_id, "model/recipe.json"))["options"]["quant"]["name"] == quant
    assert json.loads(swept.artifact(run_id, "environment.json"))["packages"]["torch"] == torch.__version__
    config = swept.artifact(run_id, "config.yaml")
    assert config.startswith(f"# python -m quantexp data=sample benchmark=quick task={task} quant={quant} ")
    assert "epochs: 2" in config


def test_the_samples_of_both_models_are_kept_at_each_batch_size(swept: Sweep) -> None:
    run = swept.runs()["mnist", "static"]
    rows = list(csv.DictReader(swept.artifact(run.info.run_id, "samples.csv").splitlines()))
    assert {(row["model"], row["batch_size"]) for row in rows} == {
        (model, str(size)) for model in ("float", "static int8") for size in SIZES
    }
    measured = swept.report(run.info.run_id)["quantized"]["latency"][0]
    kept = [row for row in rows if (row["model"], row["batch_size"]) == ("static int8", "1")]
    assert [float(row["ms_per_call"]) for row in kept] == measured["samples_ms"]


def test_the_description_of_a_run_is_its_table(swept: Sweep) -> None:
    run = swept.runs()["sst2", "dynamic"]
    note = run.data.tags["mlflow.note.content"]
    assert note == swept.artifact(run.info.run_id, "table.md")
    assert "| Quantization | none | dynamic |" in note


def test_the_data_of_a_run_are_its_dataset_input(swept: Sweep) -> None:
    runs = swept.runs()
    for task in TASKS:
        inputs = [runs[task, quant].inputs.dataset_inputs for quant in METHODS]
        datasets = {(one.dataset.name, one.dataset.digest) for (one,) in inputs}
        fingerprint = runs[task, "none"].data.tags["data_fingerprint"]
        assert datasets == {(f"{task} (sample)", fingerprint[:16])}
    assert json.loads(runs["mnist", "static"].inputs.dataset_inputs[0].dataset.profile) == {
        "train": 1437,
        "calibration": 512,
        "test": 360,
    }


@pytest.mark.parametrize(
    ("quant", "curve", "of"),
    [
        ("none", "train/loss", "float_training"),
        ("static", "train/loss", "float_training"),
        ("qat", "train/loss", "quantized_training"),
        ("qat", "train/float_loss", "float_training"),
        ("amp", "train/loss", "quantized_training"),
        ("amp", "train/float_loss", "float_training"),
    ],
)
def test_each_training_leaves_its_losses(swept: Sweep, quant: str, curve: str, of: str) -> None:
    run = swept.runs()["mnist", quant]
    training = swept.report(run.info.run_id)[of]
    history = client_of(swept.folder).get_metric_history(run.info.run_id, curve)
    assert [point.step for point in history] == training["steps"]
    assert [point.value for point in history] == pytest.approx(training["losses"], abs=1e-6)


def test_the_float_model_is_trained_once_for_each_task(swept: Sweep) -> None:
    lines = [line for line in swept.done.stderr.splitlines() if line.startswith("train     float")]
    for task in TASKS:
        of_task = [line for line in lines if line.startswith(f"train     float {task}")]
        trained = [line for line in of_task if re.search(rf"float {task}: [\d.]+ s, loss", line)]
        loaded = [line for line in of_task if "from the cache" in line]
        assert (len(trained), len(loaded)) == (1, len(METHODS) - 1)


def test_the_float_model_is_the_same_in_every_run_of_a_task(swept: Sweep) -> None:
    runs = swept.runs()
    for task in TASKS:
        accuracies = {runs[task, quant].data.metrics["float/accuracy"] for quant in METHODS if quant != "none"}
        assert accuracies == {runs[task, "none"].data.metrics["accuracy"]}


@pytest.mark.parametrize(("task", "quant"), COMBINATIONS)
def test_a_recorded_model_predicts_as_it_did_when_it_was_measured(
    swept: Sweep, monkeypatch: pytest.MonkeyPatch, task: str, quant: str
) -> None:
    monkeypatch.chdir(swept.folder)
    run = swept.runs()[task, quant]
    tasks: dict[str, Task] = {"mnist": Mnist(), "sst2": Sst2()}
    test = load(Experiment(task=tasks[task], data=DataSource.sample)).test
    model = quantexp.load(run.info.run_id)
    report = swept.report(run.info.run_id)
    recorded = (report["quantized"] or report["baseline"])["quality"]
    correct = int((outputs(model, test).argmax(1) == test.labels).sum())
    assert (correct, len(test)) == (recorded["correct"], recorded["total"])
    assert round(correct / len(test), 6) == run.data.metrics["accuracy"]


def test_the_experiment_has_the_saved_view(swept: Sweep) -> None:
    tags = client_of(swept.folder).get_experiment_by_name("quantexp").tags
    assert json.loads(tags["mlflow.sharedViewState.quantexp"])["state"].startswith("deflate;")


@pytest.mark.parametrize("noise", ["Warning", "INFO", "alembic", "torch.ao", "Traceback"])
def test_a_sweep_makes_no_noise(swept: Sweep, noise: str) -> None:
    assert noise not in swept.done.stderr
    assert noise not in swept.done.stdout


def test_stderr_holds_the_stages_and_stdout_the_results(swept: Sweep) -> None:
    assert re.match(r"sweep     [\d_-]{26}: 10 combinations\n", swept.done.stderr)
    stages = {line.split()[0] for line in swept.done.stderr.splitlines() if line}
    stages.discard("waiting")  # another test may have measured at that moment
    assert stages == {"sweep", "run", "data", "train", "calibrate", "inspect", "measure"}
    assert not re.search("^measure   ", swept.done.stdout, re.MULTILINE)


def test_the_same_command_again_adds_a_run_and_overwrites_nothing(workdir: Path, quantexp: Command) -> None:
    def kept() -> dict[str, bytes]:
        files = (path for path in workdir.rglob("*") if path.is_file() and "mlartifacts" in path.parts)
        return {str(path): path.read_bytes() for path in files}

    done = quantexp(*SMALL, "quant=amp")
    (first,) = runs_in(workdir)
    asked = " ".join(SMALL[1:])
    assert f"recorded: mnist-sample-amp-bf16-s0 {asked} in sqlite:///{workdir}/mlflow.db" in done.stdout
    assert f"/#/experiments/{first.info.experiment_id}/runs/{first.info.run_id}" in done.stdout
    assert {path.name for path in workdir.iterdir() if not path.name.startswith(".")} == {"mlflow.db", "mlartifacts"}
    for curve in ("train/loss", "train/float_loss"):  # 23 batches an epoch, a loss every 50 steps and at the end
        steps = [point.step for point in client_of(workdir).get_metric_history(first.info.run_id, curve)]
        assert steps == [50, 100, 115]

    before = kept()
    assert quantexp(*SMALL, "quant=amp").returncode == 0
    again = {run.info.run_id: run for run in runs_in(workdir)}
    assert len(again) == 2
    assert {run.info.run_name for run in again.values()} == {first.info.run_name}
    assert again[first.info.run_id].data.metrics == first.data.metrics
    assert before.items() <= kept().items()
    assert len(kept()) == 2 * len(before)


def test_the_installed_script_is_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no checkout here: the configs are found from anywhere
    script = Path(sysconfig.get_path("scripts")) / "quantexp"
    told = [
        subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=PATIENCE, check=True)
        for command in ([str(script)], [sys.executable, "-m", "quantexp"])
    ]
    assert told[0].stdout == told[1].stdout
    assert told[0].stdout.startswith("quantexp trains or loads a network")
    assert told[0].stderr == told[1].stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_is_composed_in_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantexp: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    done = quantexp("--cfg", "job", "--resolve", "quant=qat", "seed=3")
    assert done.returncode == 0
    assert "freeze_after: 0.5" in done.stdout
    assert "seed: 3" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_combination_that_fails_does_not_take_the_others_with_it(workdir: Path, quantexp: Command) -> None:
    having = [one.value for one in Engine if one.value in torch.backends.quantized.supported_engines]
    lacking = [one.value for one in Engine if one.value not in torch.backends.quantized.supported_engines]
    if lacking:
        sweep, bad, told = f"quant.engine={having[0]},{lacking[0]}", f"quant.engine={lacking[0]}", lacking[0]
    else:
        sweep, bad, told = "train.learning_rate=0.001,1e30", "train.learning_rate=1e30", "it is nan"
    done = quantexp("-m", "quant=static", *SMALL, "seed=0,1", sweep)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (table,) = workdir.glob("multirun/*/table.csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["Seed"] for row in rows if row["Accuracy"]] == ["0", "1"]
    summary = done.stderr[done.stderr.index("2 of 4 combinations failed") :].splitlines()
    assert [bad in line.replace("+", "") for line in summary[1::2]] == [True, True]
    assert [told in line for line in summary[2::2]] == [True, True]

    runs = runs_in(workdir)
    assert Counter(run.info.status for run in runs) == {"FINISHED": 2, "FAILED": 2}
    for run in runs:
        assert (told in run.data.tags.get("error", "")) == (run.info.status == "FAILED")
    assert {run.data.params["seed"] for run in runs} == {"0", "1"}


def test_the_environment_names_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantexp: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = quantexp("--cfg", "job", "--resolve", QUANTEXP_DATA_DIR="/data/sets")
    assert "data_dir: /data/sets" in shown.stdout
    assert "QUANTEXP_DATA_DIR" not in os.environ

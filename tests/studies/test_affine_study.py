"""`study=affine`: what it computes, what it tells, and what it leaves in the store."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quantexp.config import Affine, Experiment, Granularity
from quantexp.runner.checks import check_inputs
from quantexp.runner.identity import configuration, configuration_digest
from quantexp.studies.affine.findings import AffineReport, metrics, table
from quantexp.studies.affine.pictures import pictures
from quantexp.studies.affine.study import study
from quantexp.system.errors import ConfigError

Command = Callable[..., "subprocess.CompletedProcess[str]"]
PNG = b"\x89PNG"
ARTIFACTS = {"bits.csv", "config.yaml", "environment.json", "outliers.csv", "pictures", "table.md"}
METRICS = {
    *("mean_error", "max_error", "mean_error_steps", "max_error_steps"),
    *("float_bytes", "quantized_bytes", "compression"),
}
NEAREST = Affine(nearest=True)


@pytest.fixture(scope="module")
def report() -> AffineReport:
    return study(NEAREST, seed=0)


def runs_in(folder: Path) -> tuple[Any, list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("quantexp").experiment_id], "params.study = 'affine'")
    return client, list(found)


# -- what it computes ------------------------------------------------------------------------------------


def test_the_tensor_of_the_lab_has_the_errors_of_the_lab() -> None:
    found = study(Affine(shape=[4, 4]), seed=999)
    torch.manual_seed(999)
    x = torch.randn(4, 4)
    assert (found.least, found.greatest) == (x.min().item(), x.max().item())
    assert found.max_error == pytest.approx(-3.4104 - x.min().item(), abs=1e-4)  # the lab's table has -3.4104 there
    assert found.zero_points == (156,)
    assert found.scales == pytest.approx(((found.greatest - found.least) / 255,))


def test_the_mean_error_is_a_quarter_of_a_step_and_the_largest_half_of_one(report: AffineReport) -> None:
    assert report.mean_error_steps == pytest.approx(0.25, abs=0.01)  # of errors spread evenly over half a step
    assert report.max_error_steps == pytest.approx(0.5, abs=0.001)
    assert report.mean_error == pytest.approx(report.mean_error_steps * report.scales[0], rel=1e-4)


def test_each_bit_halves_the_error(report: AffineReport) -> None:
    assert [one.num_bits for one in report.by_bits] == [2, 3, 4, 5, 6, 7, 8]
    by_bits = {one.num_bits: one for one in report.by_bits}
    for one in report.by_bits:
        assert one.half_step == pytest.approx((report.greatest - report.least) / (2**one.num_bits - 1) / 2)
        assert one.max_error <= one.half_step * 1.001
    for num_bits in range(4, 8):  # of few bits the steps are too wide for errors to spread evenly
        assert by_bits[num_bits].mean_error / by_bits[num_bits + 1].mean_error == pytest.approx(2, rel=0.1)
    assert by_bits[8].mean_error == report.mean_error


def test_an_outlier_costs_all_values_their_precision_per_tensor_and_those_of_its_channel_per_channel(
    report: AffineReport,
) -> None:
    points = {one.times: one for one in report.by_outlier}
    assert points[100].per_tensor > 10 * points[1].per_tensor
    # 63 of 64 channels keep their error; in the other one each value becomes 0, an error of 0.8 on average.
    assert points[1000].per_channel == pytest.approx((63 * points[1].per_channel + (2 / torch.pi) ** 0.5) / 64, rel=0.1)
    # Where the step is larger than all other values, all of them become 0.
    assert points[1000].per_tensor == pytest.approx((2 / torch.pi) ** 0.5, rel=0.02)


def test_a_byte_takes_a_quarter_of_a_float_but_for_the_container(report: AffineReport) -> None:
    container = report.float_bytes - 4 * 64 * 256
    assert report.quantized_bytes - 64 * 256 == pytest.approx(container, abs=64)  # storages are aligned to 64 bytes
    assert report.compression == report.float_bytes / report.quantized_bytes


def test_each_channel_has_its_own_scale() -> None:
    found = study(Affine(shape=[3, 50], granularity=Granularity.per_channel, signed=True, symmetric=True), seed=1)
    assert len(found.scales) == len(set(found.scales)) == 3
    assert found.zero_points == (0, 0, 0)
    assert found.dtype == "int8"


@pytest.mark.parametrize("num_bits", [2, 16])
def test_the_least_tensor_there_is_can_be_drawn(num_bits: int) -> None:
    found = study(Affine(shape=[1, 2], num_bits=num_bits, granularity=Granularity.per_channel, bits=[num_bits]), seed=0)
    assert all(picture.startswith(PNG) for picture in pictures(found).values())
    assert table(found).markdown()


# -- what it tells ---------------------------------------------------------------------------------------


def test_the_table_holds_errors_and_bytes(report: AffineReport) -> None:
    rows = {row[0]: row[1:] for row in table(report).rows}
    assert table(report).columns[0] == "normal tensor 64 x 256, seed 0"
    assert rows["dtype"] == ("float32", "uint8", "")
    assert rows["Mean error"][1:] == (f"{report.mean_error:.4g}", "0.25 of a step")
    assert rows["Maximum error"][1:] == (f"{report.max_error:.4g}", "0.50 of a step")
    assert rows["Bytes on disk"][:2] == (f"{report.float_bytes:,}", f"{report.quantized_bytes:,}")
    assert rows["Bytes on disk"][2] == f"{report.compression:.2f}x smaller"


def test_the_notes_say_where_more_than_half_a_step_comes_from() -> None:
    lab, rounded = (" ".join(table(study(Affine(shape=[4, 4], nearest=one), 999)).notes) for one in (False, True))
    assert "study.nearest=true" in lab
    assert "study.nearest=true" not in rounded


def test_the_notes_say_what_fewer_bits_do_not_save() -> None:
    notes = " ".join(table(study(Affine(num_bits=4), 0)).notes)
    assert "an integer of 4 bits is stored in 8" in notes
    assert "is stored in 8" not in " ".join(table(study(Affine(num_bits=8), 0)).notes)


def test_metrics_have_these_names(report: AffineReport) -> None:
    assert set(metrics(report)) == METRICS


# -- its settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"shape": [64]}, r"study.shape must have two axes or more.*got \[64\]"),
        ({"shape": [64, 1]}, "two values or more in a channel"),
        ({"shape": [0, 4]}, "study.shape must be at least 1, got 0"),
        ({"shape": [2**13, 2**13]}, "at most 16,777,216 values, got 67,108,864"),
        ({"num_bits": 1}, "study.num_bits must be at least 2, got 1"),
        ({"bits": [8, 17]}, "study.bits must be at most 16, got 17"),
        ({"bits": []}, r"study.bits must name a bit width or more"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_run_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Affine(**settings)


def test_a_study_is_part_of_the_configuration_and_a_single_run_has_none() -> None:
    assert "study" not in configuration(Experiment())
    digests = {configuration_digest(Experiment(study=Affine(num_bits=bits))) for bits in (4, 8)}
    assert len({*digests, configuration_digest(Experiment())}) == 3


def test_a_study_of_a_tensor_asks_for_no_data(tmp_path: Path) -> None:
    check_inputs(Experiment(study=Affine(), data_dir=str(tmp_path / "nowhere")))


# -- the command -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_and_records_what_the_study_found(workdir: Path, quantexp: Command) -> None:
    done = quantexp("study=affine", "seed=999", "study.shape=[4,4]", f"data_dir={workdir / 'nowhere'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Bytes on disk" in done.stdout
    assert "recorded: affine-s999 study.shape=[4,4] in sqlite:///" in done.stdout
    client, (run,) = runs_in(workdir)
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) == METRICS
    assert run.data.params["study.num_bits"] == "8"
    assert {name.partition(".")[0] for name in run.data.params} == {"study", "seed", "tracking"}
    assert {entry.path for entry in client.list_artifacts(run.info.run_id)} == ARTIFACTS
    (folder,) = workdir.glob("mlartifacts/*/artifacts")
    assert run.data.tags["mlflow.note.content"] == (folder / "table.md").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO((folder / "bits.csv").read_text(encoding="utf-8"))))
    assert [int(row["num_bits"]) for row in rows] == [2, 3, 4, 5, 6, 7, 8]
    assert float(rows[-1]["max_error"]) == pytest.approx(run.data.metrics["max_error"])
    assert {path.name for path in (folder / "pictures").iterdir()} == {"error_by_bits.png", "error_by_range.png"}
    assert all(path.read_bytes().startswith(PNG) for path in (folder / "pictures").iterdir())


@pytest.mark.slow
def test_a_sweep_of_studies_records_each_and_says_that_it_measured_no_model(workdir: Path, quantexp: Command) -> None:
    done = quantexp("-m", "study=affine", "seed=0,1", "study.shape=[4,8]", "sweep.name=tensors")
    assert done.returncode == 0
    assert "the report of the sweep cannot be made" not in done.stderr
    assert "No run of this sweep measured a model" in done.stdout
    client, runs = runs_in(workdir)
    assert {run.data.params["seed"] for run in runs} == {"0", "1"}
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert client.get_run(parent).info.status == "FINISHED"
    assert (workdir / "multirun" / "tensors" / "report.html").is_file()

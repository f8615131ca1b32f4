from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from pydantic import ValidationError

from quantexp.report.results import (
    Accuracy,
    Comparison,
    Data,
    Evidence,
    Latency,
    Layer,
    Measured,
    Operator,
    Report,
    Speedup,
    Training,
    metrics,
    read_report,
)


def latency(batch_size: int, median_ms: float) -> Latency:
    return Latency(
        batch_size=batch_size,
        samples_ms=(median_ms - 0.5, median_ms, median_ms + 0.5),
        calls_per_sample=3,
        placements=1,
        median_ms=median_ms,
        mean_ms=median_ms + 0.1,
        std_ms=0.2,
        p10_ms=median_ms - 0.4,
        p90_ms=median_ms + 0.4,
    )


def measured(precision: str, *, correct: int, size_bytes: int, factor: float, seconds: float | None) -> Measured:
    return Measured(
        precision=precision,
        accuracy=Accuracy(correct / 100, correct / 100 - 0.05, correct / 100 + 0.04, correct, 100),
        size_bytes=size_bytes,
        parameters=1_000_000,
        latency=(latency(1, 1.0 * factor), latency(64, 8.0 * factor)),
        train_seconds=seconds,
    )


TRAINING = Training(12.5, 2, "cpu", 4, "here", (50, 90), (0.7, 0.3))

QAT = Report(
    task="mnist",
    model="mlp",
    quant="qat",
    precision="int8",
    data=Data("full", "data_dir /data", "f" * 64, 60_000, 512, 100),
    seed=3,
    benchmark="paired",
    threads=1,
    baseline=measured("fp32", correct=80, size_bytes=4_000_000, factor=2.0, seconds=12.5),
    quantized=measured("int8", correct=78, size_bytes=1_000_000, factor=1.0, seconds=25.0),
    comparison=Comparison(
        accuracy_drop=0.02,
        flips_gained=1,
        flips_lost=3,
        compression=4.0,
        speedups=(Speedup(1, 2.0, 1.9, 2.1), Speedup(64, 2.2, 2.0, 2.4)),
        training_ratio=2.0,
    ),
    evidence=Evidence(
        (Layer("layers.0", "Linear", "int8"),), (Operator("quantized.linear", "int8", 1),), ("layers.2",)
    ),
    calibration=None,
    calibration_seconds=None,
    float_training=TRAINING,
    quantized_training=dataclasses.replace(TRAINING, seconds=25.0),
)

STATIC = dataclasses.replace(
    QAT,
    quant="static",
    quantized=dataclasses.replace(QAT.quantized, train_seconds=None),  # type: ignore[type-var]
    comparison=dataclasses.replace(QAT.comparison, training_ratio=None),  # type: ignore[type-var]
    calibration="train",
    calibration_seconds=0.5,
    quantized_training=None,
)

FLOAT = dataclasses.replace(
    QAT,
    quant="none",
    precision="fp32",
    quantized=None,
    comparison=None,
    evidence=Evidence((), (), ()),
    quantized_training=None,
)

OF_ONE_MODEL = {
    *("accuracy", "accuracy_low", "accuracy_high", "size_mb", "parameters", "train_seconds"),
    *("latency_b1_ms", "latency_b1_ms_mean", "latency_b1_ms_std", "latency_b1_ms_p10", "latency_b1_ms_p90"),
    *("latency_b64_ms", "latency_b64_ms_mean", "latency_b64_ms_std", "latency_b64_ms_p10", "latency_b64_ms_p90"),
    *("throughput_b1_per_s", "throughput_b64_per_s"),
}
OF_FLOAT = {f"float/{name}" for name in OF_ONE_MODEL}
OF_THE_COMPARISON = {
    *("accuracy_drop", "flips_gained", "flips_lost", "compression"),
    *("speedup_b1", "speedup_b1_low", "speedup_b1_high", "speedup_b64", "speedup_b64_low", "speedup_b64_high"),
}


# Names


def test_the_metrics_of_a_method_that_trains_have_these_names_and_no_others() -> None:
    assert set(metrics(QAT)) == OF_ONE_MODEL | OF_THE_COMPARISON | OF_FLOAT | {"training_ratio"}


def test_the_metrics_of_a_method_that_calibrates_have_these_names_and_no_others() -> None:
    names = OF_ONE_MODEL - {"train_seconds"} | OF_THE_COMPARISON | OF_FLOAT | {"calibration_seconds"}
    assert set(metrics(STATIC)) == names


def test_the_float_model_alone_has_no_speedup_no_drop_no_flips_and_nothing_under_float() -> None:
    assert set(metrics(FLOAT)) == OF_ONE_MODEL


def test_weights_of_the_user_have_no_training_time() -> None:
    baseline = dataclasses.replace(FLOAT.baseline, train_seconds=None)
    assert set(metrics(dataclasses.replace(FLOAT, baseline=baseline))) == OF_ONE_MODEL - {"train_seconds"}


def test_a_speedup_without_an_interval_has_no_ends() -> None:
    comparison = Comparison(0.0, 0, 0, 4.0, (Speedup(1, 2.0, None, None),), None)
    names = {name for name in metrics(dataclasses.replace(QAT, comparison=comparison)) if "speedup" in name}
    assert names == {"speedup_b1"}


# Values


def test_the_metrics_are_those_of_the_quantized_model_and_under_float_those_of_the_float_model() -> None:
    found = metrics(QAT)
    assert (found["accuracy"], found["float/accuracy"]) == (0.78, 0.80)
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx((0.73, 0.82))
    assert (found["size_mb"], found["float/size_mb"]) == (1.0, 4.0)
    assert (found["latency_b64_ms"], found["float/latency_b64_ms"]) == (8.0, 16.0)
    assert (found["latency_b1_ms_mean"], found["latency_b1_ms_std"]) == pytest.approx((1.1, 0.2))
    assert (found["latency_b1_ms_p10"], found["latency_b1_ms_p90"]) == pytest.approx((0.6, 1.4))
    assert found["throughput_b64_per_s"] == pytest.approx(64 / 0.008)
    assert (found["train_seconds"], found["float/train_seconds"]) == (25.0, 12.5)
    assert (found["accuracy_drop"], found["flips_gained"], found["flips_lost"]) == (0.02, 1.0, 3.0)
    assert (found["compression"], found["training_ratio"]) == (4.0, 2.0)
    assert [found[f"speedup_b64{end}"] for end in ("", "_low", "_high")] == [2.2, 2.0, 2.4]


def test_without_a_quantized_model_the_metrics_are_those_of_the_float_model() -> None:
    found = metrics(FLOAT)
    assert (found["accuracy"], found["size_mb"], found["latency_b1_ms"]) == (0.80, 4.0, 2.0)
    assert FLOAT.result is FLOAT.baseline


def test_every_metric_is_a_float_and_the_headline_figures_come_first() -> None:
    found = metrics(QAT)
    assert {type(value) for value in found.values()} == {float}
    assert list(found)[:4] == ["accuracy", "size_mb", "latency_b1_ms", "latency_b64_ms"]


# Reports on disk


@pytest.mark.parametrize("report", [QAT, STATIC, FLOAT], ids=["qat", "static", "none"])
def test_a_report_that_is_written_and_read_again_is_equal(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert read_report(path) == report


def test_a_report_keeps_every_digit_of_a_sample(tmp_path: Path) -> None:
    samples = (0.1 + 0.2, 1 / 3, 1e-9)
    one = dataclasses.replace(latency(1, 1.0), samples_ms=samples)
    baseline = dataclasses.replace(FLOAT.baseline, latency=(one,))
    path = tmp_path / "report.json"
    path.write_text(dataclasses.replace(FLOAT, baseline=baseline).to_json(), encoding="utf-8")
    assert read_report(path).baseline.latency[0].samples_ms == samples


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"task": "mnist"}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValidationError):
        read_report(path)


# Trainings


def test_training_times_compare_only_on_one_device_with_as_many_threads_on_one_machine() -> None:
    assert TRAINING.comparable(dataclasses.replace(TRAINING, seconds=1.0, epochs=9))
    for other in ({"device": "cuda"}, {"threads": 1}, {"machine": "there"}):
        assert not TRAINING.comparable(dataclasses.replace(TRAINING, **other))  # type: ignore[arg-type]

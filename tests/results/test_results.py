from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from quantexp.results import Account, Evidence, Operator, Quality, Report, Resources, Speedup, parse_report
from quantexp.results.metrics import metrics
from quantexp.results.text import mac_share_text
from tests.builders import (
    comparison,
    conditions,
    latency,
    lone,
    measured,
    other_float,
    other_quantized,
    quality_change,
    report,
    speedup,
    training,
    unlabelled,
)

STATIC = report()
QAT = report(
    quant="qat",
    quantized=dataclasses.replace(measured("int8", correct=976, ms={1: 0.1, 64: 0.5}), train_seconds=25.0),
    comparison=comparison(training_ratio=2.5),
    calibration=None,
    calibration_seconds=None,
    quantized_training=training(25.0),
)
FLOAT = lone()
OVER_OTHER = (speedup(1, 1.9), speedup(64, 3.6))
COMPILED = report(others=(other_float(quantized_speedups=OVER_OTHER),))
THERE = dataclasses.replace(COMPILED, others_quantized=(other_quantized(),))
UNLABELLED = unlabelled()

OLD = Path(__file__).parent / "old_report.json"  # as it was written before there were runtimes and objectives

SIZES = (1, 64)
LATENCY = {
    name
    for size in SIZES
    for name in (
        *(f"latency_b{size}_ms{end}" for end in ("", "_mean", "_std", "_p10", "_p90")),
        *(f"first_call_b{size}_ms", f"throughput_b{size}_per_s"),
    )
}
OF_ONE_MODEL = {
    *("accuracy", "accuracy_low", "accuracy_high", "size_mb", "stored_mb", "weights_mb", "parameters"),
    *("train_seconds", "int8_mac_share", "load_ms", "loss"),
    *LATENCY,
}
OF_FLOAT = {f"float/{name}" for name in OF_ONE_MODEL}
OF_THE_RUN = {"flops", "macs", "unstable"}
SPEEDUP = {f"speedup_b{size}{end}" for size in SIZES for end in ("", "_low", "_high")}
OF_THE_COMPARISON = {
    *("accuracy_drop", "flips_gained", "flips_lost", "agreement", "mcnemar_p", "detectable_drop", "compression"),
    "output_sqnr_db",
    *SPEEDUP,
}
OF_COMPILED = {f"runtime/compiled/float/{name}" for name in ("prepare_seconds", *LATENCY, *SPEEDUP)}
OVER_EAGER = {name.replace("speedup", "speedup_over_eager") for name in SPEEDUP}
QUANTIZED_THERE = {
    f"runtime/compiled/{name}"
    for name in (*OF_ONE_MODEL, *SPEEDUP, *OVER_EAGER, "prepare_seconds", "agreement_with_eager")
}
OF_LABELS = {"accuracy", "accuracy_low", "accuracy_high", "loss", "train_seconds"}
OF_FLIPS = {"accuracy_drop", "flips_gained", "flips_lost", "mcnemar_p", "detectable_drop"}
OVER_COMPILED = {name.replace("speedup", "speedup_over_compiled") for name in SPEEDUP}


# Names


def test_what_the_system_did_in_a_call_has_names_and_a_share() -> None:
    spent = Resources(100, 256.0, 0.3, 1.2)
    alone = lone(baseline=measured(latency=(latency(64, 1.25, resources=spent),)))
    found = metrics(alone)
    assert found["minor_faults_b64"] == 256.0
    assert (found["system_b64_ms"], found["cpu_b64_ms"]) == (0.3, 1.2)
    assert spent.system_share == pytest.approx(0.25)
    assert parse_report(alone.to_json().encode()) == alone


def test_the_metrics_of_a_method_that_trains_have_these_names_and_no_others() -> None:
    names = OF_ONE_MODEL | OF_THE_COMPARISON | OF_FLOAT | OF_THE_RUN | {"training_ratio"}
    assert set(metrics(QAT)) == names


def test_the_metrics_of_a_method_that_calibrates_have_these_names_and_no_others() -> None:
    names = OF_ONE_MODEL - {"train_seconds"} | OF_THE_COMPARISON | OF_FLOAT | OF_THE_RUN | {"calibration_seconds"}
    assert set(metrics(STATIC)) == names


def test_the_float_model_alone_has_no_speedup_no_drop_no_flips_and_nothing_under_float() -> None:
    assert set(metrics(FLOAT)) == OF_ONE_MODEL | OF_THE_RUN


def test_the_compiled_float_model_has_its_latencies_and_speedups_under_its_own_name() -> None:
    assert set(metrics(COMPILED)) - set(metrics(STATIC)) == OF_COMPILED | OVER_COMPILED
    assert set(metrics(lone(others=(other_float(),)))) == OF_ONE_MODEL | OF_THE_RUN | OF_COMPILED


def test_the_quantized_network_in_a_further_runtime_has_its_figures_under_the_name_of_that() -> None:
    found = metrics(THERE)
    assert set(found) - set(metrics(COMPILED)) == QUANTIZED_THERE
    assert (found["runtime/compiled/accuracy"], found["runtime/compiled/latency_b64_ms"]) == (0.975, 0.85)
    assert (found["runtime/compiled/speedup_b1"], found["runtime/compiled/speedup_over_eager_b1"]) == (2.0, 3.0)
    assert found["runtime/compiled/agreement_with_eager"] == 0.999
    assert parse_report(THERE.to_json().encode()) == THERE


def test_without_labels_no_metric_is_of_accuracy_or_training_and_closeness_stays() -> None:
    names = OF_ONE_MODEL | OF_THE_COMPARISON | OF_FLOAT | OF_THE_RUN | {"calibration_seconds"}
    assert set(metrics(UNLABELLED)) == names - OF_LABELS - OF_FLIPS - {f"float/{name}" for name in OF_LABELS}
    assert {"agreement", "output_sqnr_db"} <= set(metrics(UNLABELLED))
    assert UNLABELLED.network_name == "mnist (synthetic), mlp"


def test_weights_of_the_user_have_no_training_time() -> None:
    names = set(metrics(lone(baseline=measured(train_seconds=None))))
    assert names == OF_ONE_MODEL - {"train_seconds"} | OF_THE_RUN


def test_there_is_a_metric_of_memory_only_if_it_was_measured() -> None:
    names = set(metrics(report(baseline=measured(memory_bytes=9_000_000))))
    assert names - set(metrics(STATIC)) == {"float/memory_mb"}
    assert metrics(lone(baseline=measured(memory_bytes=9_000_000)))["memory_mb"] == 9.0


def test_a_model_that_no_disk_took_has_neither_a_stored_size_nor_a_time_to_load() -> None:
    unstored = dataclasses.replace(measured().size, stored_bytes=None)
    names = set(metrics(lone(baseline=measured(size=unstored, load_ms=None))))
    assert names == OF_ONE_MODEL - {"stored_mb", "load_ms"} | OF_THE_RUN


def test_the_ninety_ninth_percentile_is_named_only_where_it_is_known() -> None:
    known = measured(latency=(latency(1, 0.2, p99_ms=0.3), latency(64, 2.0)))
    named = metrics(lone(baseline=known))
    assert set(named) - set(metrics(FLOAT)) == {"latency_b1_ms_p99"}
    assert named["latency_b1_ms_p99"] == 0.3


def test_a_speedup_without_an_interval_has_no_ends() -> None:
    found = metrics(report(comparison=comparison(speedups=[speedup(1, 2.0, placements=1)])))
    assert {name for name in found if "speedup" in name} == {"speedup_b1"}


# Values


def test_the_metrics_are_those_of_the_quantized_model_and_under_float_those_of_the_float_model() -> None:
    baseline = measured(correct=800, ms={64: 2.0}, weight_bytes={"fp32": 3_998_000})
    evidence = Evidence((), (Operator("a", "int8", 2, 75), Operator("b", "fp32", 1, 25)), ())
    quantized = dataclasses.replace(
        measured("int8", correct=780, weight_bytes={"fp32": 98_000, "int8": 900_000}),
        latency=(latency(64, 0.5, mean_ms=0.55, std_ms=0.02, p10_ms=0.4, p90_ms=0.7, first_call_ms=90.0),),
        evidence=evidence,
        load_ms=33.0,
        train_seconds=25.0,
        loss=0.7,
    )
    made = comparison(
        drop=0.02,
        agreement=0.97,
        flips_gained=1,
        flips_lost=21,
        p_value=1e-5,
        detectable_drop=0.015,
        compression=4.0,
        training_ratio=2.5,
        output_sqnr_db=24.5,
        speedups=[Speedup(64, 4.0, 3.9, 4.2, 0.01)],
    )
    assert quantized.quality is not None
    found = metrics(report(baseline=baseline, quantized=quantized, comparison=made, flops=200))
    assert (found["accuracy"], found["float/accuracy"]) == (0.78, 0.80)
    assert (found["accuracy_low"], found["accuracy_high"]) == (quantized.quality.low, quantized.quality.high)
    assert (found["loss"], found["float/loss"], found["output_sqnr_db"]) == (0.7, 0.08, 24.5)
    assert (found["size_mb"], found["float/size_mb"]) == (1.0, 4.0)
    assert (found["stored_mb"], found["weights_mb"]) == (1.001, 0.998)
    assert (found["int8_mac_share"], found["float/int8_mac_share"]) == (0.75, 0.0)
    assert (found["latency_b64_ms"], found["float/latency_b64_ms"]) == (0.5, 2.0)
    assert (found["latency_b64_ms_mean"], found["latency_b64_ms_std"]) == (0.55, 0.02)
    assert (found["latency_b64_ms_p10"], found["latency_b64_ms_p90"]) == (0.4, 0.7)
    assert (found["first_call_b64_ms"], found["load_ms"]) == (90.0, 33.0)
    assert found["throughput_b64_per_s"] == pytest.approx(64 / 0.0005)
    assert (found["train_seconds"], found["float/train_seconds"], found["training_ratio"]) == (25.0, 10.0, 2.5)
    assert (found["accuracy_drop"], found["flips_gained"], found["flips_lost"]) == (0.02, 1.0, 21.0)
    assert (found["agreement"], found["mcnemar_p"], found["detectable_drop"]) == (0.97, 1e-5, 0.015)
    assert found["compression"] == 4.0
    assert [found[f"speedup_b64{end}"] for end in ("", "_low", "_high")] == [4.0, 3.9, 4.2]
    assert (found["flops"], found["macs"]) == (200.0, 100.0)


def test_the_metrics_of_the_compiled_model_are_its_own_and_its_speedup_is_over_the_eager_one() -> None:
    found = metrics(COMPILED)
    assert found["runtime/compiled/float/prepare_seconds"] == 8.0
    assert found["runtime/compiled/float/latency_b64_ms"] == COMPILED.others[0].latency[1].median_ms
    assert (found["runtime/compiled/float/speedup_b1"], found["speedup_over_compiled_b1"], found["speedup_b1"]) == (
        1.2,
        1.9,
        2.44,
    )


def test_without_a_quantized_model_the_metrics_are_those_of_the_float_model() -> None:
    found = metrics(FLOAT)
    assert (found["accuracy"], found["latency_b1_ms"]) == (0.978, 0.227)
    assert FLOAT.result is FLOAT.baseline
    assert STATIC.result is STATIC.quantized


def test_every_metric_is_a_float_and_the_headline_figures_come_first() -> None:
    for made in (STATIC, QAT, FLOAT, COMPILED):
        found = metrics(made)
        assert {type(value) for value in found.values()} == {float}
        assert list(found)[:4] == ["accuracy", "size_mb", "latency_b1_ms", "latency_b64_ms"]


# What the figures say


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.5, 2.5, "faster"),
        (1.0101, 1.02, "faster"),  # just beyond the margin of 1 %
        (1.01, 1.05, "undecided: between 1 % and 5 % faster"),  # touches it
        (1.0, 1.002, "no difference of more than 1 %"),  # finer than the margin nothing is said
        (0.999, 1.0011, "no difference of more than 1 %"),
        (1.0, 1.0, "no difference of more than 1 %"),
        (1 / 1.01, 1.01, "no difference of more than 1 %"),  # touches it at both ends
        (1.0, 1.011, "undecided: between 0 % and 1.1 % faster"),
        (1.0028, 1.0123, "undecided: between 0.2 % and 1.3 % faster"),  # rounding makes it wider
        (0.99, 3.0, "undecided: between 1.1 % slower and 200 % faster"),  # one end says little
        (0.8, 1.1, "undecided: between 25 % slower and 10 % faster"),  # 0.8 times as fast takes 1.25 times as long
        (0.95, 1 / 1.01, "undecided: between 5.3 % and 1 % slower"),  # touches it from below
        (0.95, 0.99, "slower"),  # 1 / 0.99 is 1.0101
        (0.2, 0.5, "slower"),
    ],
)
def test_the_verdict_is_faster_or_slower_only_if_the_whole_interval_lies_beyond_the_margin(
    low: float, high: float, verdict: str
) -> None:
    assert Speedup(1, (low * high) ** 0.5, low, high, 0.01).verdict == verdict


def test_the_verdict_of_the_inverse_comparison_is_the_opposite_one() -> None:
    opposite = {"faster": "slower", "slower": "faster"}
    for low, high in ((1.02, 1.3), (1.004, 1.3), (0.8, 1.3), (0.7, 0.9), (1.01, 1.02), (0.995, 1.003)):
        there, back = Speedup(1, 1.0, low, high, 0.01), Speedup(1, 1.0, 1 / high, 1 / low, 0.01)
        assert back.word == opposite.get(there.word, there.word)


@pytest.mark.parametrize(("margin", "told"), [(0.002, "0.2"), (0.01, "1"), (0.03, "3"), (0.015, "1.5")])
def test_no_difference_is_of_more_than_the_margin(margin: float, told: str) -> None:
    assert Speedup(1, 1.0, 0.999, 1.002, margin).verdict == f"no difference of more than {told} %"


def test_the_margin_decides_what_is_faster() -> None:
    words = [Speedup(1, 1.04, 1.03, 1.05, margin).word for margin in (0.0, 0.01, 0.029, 0.03, 0.2)]
    assert words == [*["faster"] * 3, "undecided", "no difference"]


@pytest.mark.parametrize(("low", "high"), [(None, None), (None, 2.0), (2.0, None)])
def test_without_an_interval_there_is_no_verdict(low: float | None, high: float | None) -> None:
    assert Speedup(1, 3.0, low, high, 0.01).verdict == "no interval"


@pytest.mark.parametrize(
    ("p_value", "gained", "lost", "verdict"),
    [
        (1.0, 0, 0, "no significant difference"),
        (0.0625, 0, 5, "no significant difference"),
        (0.0625, 5, 0, "no significant difference"),
        (0.05, 10, 20, "no significant difference"),
        (0.0499, 10, 20, "significant loss"),
        (0.03125, 0, 6, "significant loss"),
        (0.03125, 6, 0, "significant gain"),
    ],
)
def test_a_loss_or_a_gain_of_accuracy_is_significant_below_five_percent(
    p_value: float, gained: int, lost: int, verdict: str
) -> None:
    assert quality_change(p_value=p_value, flips_gained=gained, flips_lost=lost).verdict == verdict


def test_reasons_for_unstable_latencies_name_the_batch_size() -> None:
    shaky = (conditions(1, unstable=("it shook", "it rattled")), conditions(8), conditions(64, unstable=("it shook",)))
    made = report(conditions=shaky)
    assert made.unstable == ("batch 1: it shook", "batch 1: it rattled", "batch 64: it shook")
    assert metrics(made)["unstable"] == 3.0
    assert STATIC.unstable == ()
    assert metrics(STATIC)["unstable"] == 0.0


def test_the_share_of_a_precision_is_that_of_its_multiply_accumulates() -> None:
    ran = (Operator("a", "int8", 9, 10), Operator("b", "int8", 1, 20), Operator("c", "fp32", 1, 70))
    evidence = Evidence((), ran, ())
    assert [evidence.mac_share(name) for name in ("int8", "fp32", "bf16")] == [0.3, 0.7, 0.0]
    assert Evidence((), (), ()).mac_share("int8") == 0.0
    assert Evidence((), (Operator("a", "int8", 1, 0),), ()).mac_share("int8") == 0.0


def test_with_an_account_the_share_is_of_what_the_float_network_multiplies() -> None:
    seen = (Operator("a", "int8", 1, 30),)
    assert Evidence((), seen, (), Account(40)).mac_share("int8") == 0.75
    assert Evidence((), seen, (), Account(30, ("my.op",))).mac_share("int8") is None
    assert Evidence((), (), (), Account(0)).mac_share("int8") == 0.0


@pytest.mark.parametrize(
    ("macs", "text"), [(0, "0%"), (1, "<1%"), (100, "10%"), (994, "99%"), (999, ">99%"), (1000, "100%")]
)
def test_all_and_nothing_are_never_the_result_of_rounding(macs: int, text: str) -> None:
    assert mac_share_text(Evidence((), (Operator("a", "int8", 1, macs),), (), Account(1000)), "int8") == text


def test_figures_that_cannot_be_counted_are_no_metrics() -> None:
    unknown = Evidence((), (Operator("a", "int8", 1, 30),), (), Account(30, ("my.op",)))
    baseline, quantized = (dataclasses.replace(made, evidence=unknown) for made in (STATIC.baseline, STATIC.result))
    found = metrics(dataclasses.replace(STATIC, flops=None, baseline=baseline, quantized=quantized))
    assert not {"flops", "macs", "int8_mac_share", "float/int8_mac_share"} & set(found)
    made = dataclasses.replace(STATIC, flops=None, quantized=quantized)
    assert parse_report(made.to_json().encode()) == made


def test_the_accuracy_of_a_class_is_the_share_of_its_own_examples() -> None:
    found = Quality("accuracy", 0.5, 0.4, 0.6, 4, 8, ((3, 1, 0), (2, 1, 1), (0, 0, 0)))
    assert found.per_class == (0.75, 0.25, None)


# Reports on disk


@pytest.mark.parametrize(
    "made", [QAT, STATIC, FLOAT, COMPILED, UNLABELLED], ids=["qat", "static", "none", "compiled", "unlabelled"]
)
def test_a_report_that_is_written_and_read_again_is_equal(tmp_path: Path, made: Report) -> None:
    path = tmp_path / "report.json"
    path.write_text(made.to_json(), encoding="utf-8")
    assert parse_report(path.read_bytes()) == made


def test_a_report_from_before_runtimes_and_objectives_is_read_with_all_that_it_holds() -> None:
    made = parse_report(OLD.read_bytes())
    assert made.baseline.quality == Quality("accuracy", 0.95, 0.92, 0.97, 342, 360, ((170, 10), (8, 172)))
    assert made.comparison is not None
    change = made.comparison.quality
    assert change is not None
    assert (change.name, change.drop, change.flips_gained, change.flips_lost) == ("accuracy", 0.05, 2, 20)
    assert (change.p_value, change.detectable_drop, change.gained_examples) == (0.0001, 0.04, (4, 5))
    assert len(change.lost_examples) == 20
    assert (made.comparison.agreement, made.comparison.output_sqnr_db) == (0.93, 25.0)
    assert (made.runtime, made.objective) == ("eager", "classification")
    (other,) = made.others
    assert (other.runtime, other.prepare_seconds, other.max_difference) == ("compiled", 8.5, 1e-06)
    assert [one.ratio for one in (*other.speedups, *other.quantized_speedups)] == [1.22, 1.63]
    found = metrics(made)
    assert (found["accuracy"], found["float/accuracy"], found["accuracy_drop"]) == (0.9, 0.95, 0.05)
    assert (found["speedup_b1"], found["speedup_over_compiled_b1"]) == (2.0, 1.63)
    assert parse_report(made.to_json().encode()) == made


def test_an_old_report_of_a_float_network_alone_is_read() -> None:
    values = json.loads(OLD.read_bytes())
    values |= {"quant": "none", "quantized": None, "comparison": None, "compiled": None}
    made = parse_report(json.dumps(values).encode())
    assert made.result.quality is not None
    assert (made.result.quality.value, made.others, made.comparison) == (0.95, (), None)


def test_a_report_keeps_every_digit_of_a_sample(tmp_path: Path) -> None:
    samples = (0.1 + 0.2, 1 / 3, 1e-9)
    made = lone(baseline=measured(latency=(latency(1, 1.0, samples_ms=samples),)))
    path = tmp_path / "report.json"
    path.write_text(made.to_json(), encoding="utf-8")
    assert parse_report(path.read_bytes()).baseline.latency[0].samples_ms == samples


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"task": "mnist"}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError):  # pydantic's is one
        parse_report(path.read_bytes())


# Trainings


def test_training_times_compare_only_on_one_device_with_as_many_threads_on_one_machine() -> None:
    one = training()
    assert one.comparable(dataclasses.replace(one, seconds=1.0, epochs=9))
    for other in ({"device": "cuda"}, {"threads": 9}, {"machine": "there"}):
        assert not one.comparable(dataclasses.replace(one, **other))  # type: ignore[arg-type]

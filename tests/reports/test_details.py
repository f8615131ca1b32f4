from __future__ import annotations

import dataclasses

import pytest

from quantexp.reports.details import tables
from quantexp.results import Evidence, Layer, LeftInFloat, Operator, Quality, Report, parse_report
from tests.builders import comparison, latency, layer_loss, lone, measured, other_float, profile, report

NAMES = ["samples", "layers", "operators", "time", "confusion", "classes"]


def rows(made: Report, name: str) -> list[tuple[object, ...]]:
    """The lines of one table, its header first."""
    return list(tables(made)[name])


def right(*confusion: tuple[int, ...]) -> Quality:
    """The accuracy that a confusion matrix gives."""
    correct, total = sum(row[label] for label, row in enumerate(confusion)), sum(map(sum, confusion))
    return Quality("accuracy", correct / total, 0.0, 1.0, correct, total, confusion)


@pytest.mark.parametrize("made", [report(), lone(), report(others=(other_float(),))], ids=["both", "float", "compiled"])
def test_every_table_has_a_header_and_lines_of_as_many_cells(made: Report) -> None:
    assert list(tables(made)) == NAMES
    for name in NAMES:
        header, *lines = rows(made, name)
        assert lines
        assert {len(line) for line in lines} == {len(header)}
        assert all(isinstance(title, str) for title in header)
        assert len(set(header)) == len(header)


def test_every_sample_has_a_line_with_its_placement_and_round() -> None:
    one = latency(8, samples_ms=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), placements=3)
    made = lone(baseline=measured(latency=(one,)))
    assert rows(made, "samples") == [
        ("model", "batch_size", "placement", "round", "ms_per_call"),
        *[("float", 8, 0, 0, 1.0), ("float", 8, 0, 1, 2.0)],
        *[("float", 8, 1, 0, 3.0), ("float", 8, 1, 1, 4.0)],
        *[("float", 8, 2, 0, 5.0), ("float", 8, 2, 1, 6.0)],
    ]


def test_samples_without_placements_are_rounds_of_one() -> None:
    one = latency(1, samples_ms=(1.0, 2.0, 3.0), placements=1)
    assert [line[2:4] for line in rows(lone(baseline=measured(latency=(one,))), "samples")[1:]] == [
        (0, 0),
        (0, 1),
        (0, 2),
    ]


def test_the_samples_are_those_of_each_model_at_each_batch_size_the_compiled_one_last() -> None:
    made = report(others=(other_float(),))
    lines = rows(made, "samples")[1:]
    groups = list(dict.fromkeys(line[:2] for line in lines))
    assert groups == [(name, size) for name in ("float", "static int8", "float compiled") for size in (1, 64)]
    assert len(lines) == 3 * 2 * 40
    assert [line[-1] for line in lines[-40:]] == list(made.others[0].latency[1].samples_ms)
    assert "float compiled" not in {line[0] for line in rows(report(), "samples")}


def test_each_layer_has_a_line_with_its_precision_and_why_it_stayed_in_float() -> None:
    float_side = Evidence((Layer("layers.0", "Linear", "fp32", 32), Layer("layers.2", "Linear", "fp32", 32)), (), ())
    lowered = Evidence(
        (Layer("layers.0", "LinearReLU", "int8", 8, "per_channel_affine", "x86"), float_side.layers[1]),
        (),
        (LeftInFloat("layers.2", "nobody knows"),),
    )
    made = report(baseline=measured(evidence=float_side), quantized=measured("int8", evidence=lowered))
    assert rows(made, "layers") == [
        ("model", "layer", "kind", "precision", "bits", "qscheme", "engine", "left_in_float_because"),
        ("float", "layers.0", "Linear", "fp32", 32, "", "", ""),
        ("float", "layers.2", "Linear", "fp32", 32, "", "", ""),
        ("static int8", "layers.0", "LinearReLU", "int8", 8, "per_channel_affine", "x86", ""),
        ("static int8", "layers.2", "Linear", "fp32", 32, "", "", "nobody knows"),
    ]


def test_there_is_a_table_of_layer_losses_only_if_a_layer_was_quantized() -> None:
    losses = (layer_loss(), layer_loss("layers.2", precision="fp32", weight_mean_error=None, weight_sqnr_db=None))
    header, first, second = rows(report(comparison=comparison(layers=losses)), "layer_losses")
    assert header[:3] == ("layer", "precision", "weight_mean_error")
    assert first[:5] == ("layers.0", "int8", 0.0003, 0.0013, 42.5)
    assert dict(zip(header, second, strict=True))["weight_sqnr_db"] is None
    assert dict(zip(header, second, strict=True))["output_sqnr_db"] == 38.0
    assert "layer_losses" not in tables(report())


def test_each_operator_has_a_line_with_its_precision_calls_and_multiply_accumulates() -> None:
    ran = Evidence((), (Operator("quantized.linear", "int8", 3, 700), Operator("aten.addmm", "fp32", 1, 300)), ())
    made = lone(quant="dynamic", baseline=measured(evidence=ran))
    assert rows(made, "operators") == [
        ("model", "operator", "precision", "calls", "macs_per_example"),
        ("float", "quantized.linear", "int8", 3, 700),
        ("float", "aten.addmm", "fp32", 1, 300),
    ]


def test_the_time_by_operator_is_listed_for_each_model_and_batch_size() -> None:
    seen = (profile(1, {"aten::addmm": 0.87654321, "aten::relu": 0.1}), profile(64, {"aten::addmm": 1.0}))
    made = report(baseline=measured(profiles=seen), quantized=measured("int8", profiles=seen[1:]))
    assert rows(made, "time") == [
        ("model", "batch_size", "operator", "share"),
        ("float", 1, "aten::addmm", 0.8765),
        ("float", 1, "aten::relu", 0.1),
        ("float", 64, "aten::addmm", 1.0),
        ("static int8", 64, "aten::addmm", 1.0),
    ]


def test_the_confusion_has_a_line_for_each_label_and_prediction() -> None:
    made = report(
        baseline=measured(quality=right((3, 1), (0, 4))), quantized=measured("int8", quality=right((2, 2), (1, 3)))
    )
    assert rows(made, "confusion") == [
        ("model", "label", "predicted", "examples"),
        *[("float", 0, 0, 3), ("float", 0, 1, 1), ("float", 1, 0, 0), ("float", 1, 1, 4)],
        *[("static int8", 0, 0, 2), ("static int8", 0, 1, 2), ("static int8", 1, 0, 1), ("static int8", 1, 1, 3)],
    ]


def test_of_many_classes_the_confusion_lists_the_errors_and_the_classes_stay() -> None:
    many = Quality("accuracy", 0.5, 0.0, 1.0, 2, 4, (), ((1, 0, 2),), ((2, 2), (2, 0), (0, 0)))
    made = lone(baseline=measured(quality=many))
    assert rows(made, "confusion") == [("model", "label", "predicted", "examples"), ("float", 1, 0, 2)]
    assert rows(made, "classes") == [("label", "examples", "float"), (0, 2, 1.0), (1, 2, 0.0), (2, 0, None)]
    assert parse_report(made.to_json().encode()) == made


def test_the_accuracy_per_class_is_listed_with_its_change() -> None:
    float_side = right((3, 1, 0), (0, 4, 0), (0, 0, 0))  # of the last class there is no example
    lowered = right((1, 2, 1), (0, 4, 0), (0, 0, 0))
    made = report(baseline=measured(quality=float_side), quantized=measured("int8", quality=lowered))
    assert rows(made, "classes") == [
        ("label", "examples", "float", "static int8", "change_static int8"),
        (0, 4, 0.75, 0.25, -0.5),
        (1, 4, 1.0, 1.0, 0.0),
        (2, 0, None, None, None),
    ]


def test_the_changes_of_the_classes_sum_to_the_change_of_the_accuracy() -> None:
    made = report(
        baseline=measured(quality=right((8, 2), (5, 15))), quantized=measured("int8", quality=right((10, 0), (8, 12)))
    )
    assert made.quantized and made.quantized.quality and made.baseline.quality
    lines = rows(made, "classes")[1:]
    change = sum(examples * share for _, examples, *_, share in lines)  # type: ignore[operator, misc]
    assert change / 30 == pytest.approx(made.quantized.quality.value - made.baseline.quality.value)


def test_the_float_model_alone_has_no_change() -> None:
    made = lone(baseline=measured(quality=right((3, 1), (0, 4))))
    assert rows(made, "classes") == [("label", "examples", "float"), (0, 4, 0.75), (1, 4, 1.0)]
    assert {line[0] for name in NAMES[:-1] for line in rows(made, name)[1:]} == {"float"}


def test_a_table_names_the_method_and_the_precision_of_its_model() -> None:
    made = dataclasses.replace(report(), quant="dynamic", precision="fp16")
    assert {line[0] for line in rows(made, "operators")[1:]} == {"float", "dynamic fp16"}
